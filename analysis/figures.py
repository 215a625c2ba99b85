"""Figures of a sweep: `python -m analysis.figures results/SWEEP`.

Each figure is written as PDF, SVG and PNG, with the numbers behind it as CSV, into
`results/SWEEP/figures/`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import pandas as pd
from hydra.experimental.callback import Callback
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

HEADLINES = ("reliability", "generality", "locality")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which colour-blind readers can tell apart."""
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLE = Path(__file__).with_name("figures.mplstyle")


def draw(sweep: Path) -> list[Path]:
    """Write the figures that the runs of a sweep have the numbers for.

    Returns:
        The PNG files.

    Raises:
        ValueError: If there is no finished run, or nothing to draw.
    """
    runs = [_run(path) for path in sorted(sweep.glob("*/summary.json"))]
    if not runs:
        raise ValueError(f"{sweep} has no finished run")
    # Runs that edit no layer have no row, but would make the others' columns objects.
    found = pd.concat([_by_layer(run) for run in runs], ignore_index=True).infer_objects()
    figures = []
    for (dataset, method), rows in found.groupby(["dataset", "method"]):
        if rows["layer"].nunique() > 1:
            figures.append(_layer_figure(sweep / "figures", f"{dataset}_{method}", rows))
    if not figures:
        raise ValueError(
            f"nothing to draw in {sweep}: figures are drawn of runs that differ in method.layer "
            "(python launch.py experiment=layer_sweep)"
        )
    return figures


def _run(summary: Path) -> dict[str, Any]:
    config = OmegaConf.to_container(OmegaConf.load(summary.parent / "config.yaml"))
    return {"summary": json.loads(summary.read_text(encoding="utf-8")), "config": config}


def _by_layer(run: dict[str, Any]) -> pd.DataFrame:
    """A row a headline metric of a run that edits one layer; none of another."""
    summary, layer = run["summary"], run["config"]["method"].get("layer")
    names = [name for name in HEADLINES if name in summary["metrics"] and layer is not None]
    about = {name: summary[name] for name in ("model", "dataset", "method")}
    return pd.DataFrame(
        [{**about, "layer": layer, "metric": name, **summary["metrics"][name]} for name in names],
        columns=[*about, "layer", "metric", "value", "low", "high", "n"],
    )


def _layer_figure(folder: Path, name: str, rows: pd.DataFrame) -> Path:
    """Headline metrics against the layer, a panel a model."""
    models = sorted(rows["model"].unique())
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(3.3 * len(models), 2.4), layout="constrained")
        panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
        for panel, model in zip(panels, models, strict=True):
            of_model = rows[rows["model"] == model]
            for n, metric in enumerate(HEADLINES):
                line = of_model[of_model["metric"] == metric].sort_values("layer")
                if line.empty:
                    continue
                style = {"color": COLOURS[n], "label": metric}
                panel.plot(line["layer"], line["value"], marker=MARKERS[n], ms=3, lw=1.2, **style)
                low, high = (line[end].astype(float) for end in ("low", "high"))
                panel.fill_between(line["layer"], low, high, color=COLOURS[n], alpha=0.15, lw=0)
            panel.set(title=model, xlabel="layer edited", ylim=(-0.03, 1.03))
            panel.xaxis.get_major_locator().set_params(integer=True)
        panels[0].set_ylabel("share of probes")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
        return _written(figure, rows, folder, f"layers_{name}")


def _written(figure: Figure, numbers: pd.DataFrame, folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    numbers.to_csv(folder / f"{name}.csv", index=False)
    for suffix in ("pdf", "svg", "png"):
        figure.savefig(folder / f"{name}.{suffix}", dpi=200)
    return folder / f"{name}.png"


class Draw(Callback):
    """Draw when a sweep is over; a preset of `conf/experiment` asks for it."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Draw what the finished runs have the numbers for, once they are finished."""
        sweep = Path(config.results_dir) / config.sweep
        submitted = config.hydra.runtime.choices["hydra/launcher"] not in ("local", "processes")
        if config.dry_run:
            return
        if submitted and not config.wait:
            print(f"figures, when the runs are done: python -m analysis.figures {sweep}")
        else:
            _report(sweep)


def _report(sweep: Path) -> bool:
    try:
        figures = draw(sweep)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    print("\n".join(f"figure: {path} (and .pdf, .svg, .csv)" for path in figures))
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the figures of one sweep."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.figures", description="Draw the figures of a sweep."
    )
    parser.add_argument("sweep", type=Path, help="a sweep's folder, results/SWEEP")
    if not _report(parser.parse_args(arguments).sweep):
        sys.exit(1)


if __name__ == "__main__":
    main()
