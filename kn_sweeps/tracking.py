"""Where results are reported besides the run directory: Weights & Biases, or nowhere.

The run directory is the source of truth; a tracker only repeats what is in it.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import pandas as pd
    import PIL.Image
    from matplotlib.figure import Figure

_SAMPLE_COLUMNS = (
    *("case", "kind", "group", "prefix", "suffix", "old", "new", "pre_answer", "post_answer"),
    *("pre_margin", "post_margin", "kl"),
)
_PARTS = ("value", "low", "high", "n")
_DRAWN = {
    "share of probes": (
        *("reliability", "generality", "locality", "symmetry", "synonymy", "flip_rate"),
        "pair_accuracy",
    ),
    "nats": ("effect_size",),
}
"""The metrics of the figure of headline numbers, by the axis that they share."""


class Report(Protocol):
    """One run's line to a tracker."""

    def progress(self, done: int, total: int) -> None:
        """Tell how many cases are done."""

    def results(self, summary: Mapping[str, Any], rows: pd.DataFrame) -> None:
        """Report the metrics, sample rows and figures."""


@runtime_checkable
class Tracker(Protocol):
    """Opens a report for a run; an exception inside marks the run as failed."""

    def open(
        self, run_id: str, name: str, sweep: str, config: Mapping[str, Any], directory: Path
    ) -> AbstractContextManager[Report]:
        """Open a report.

        Args:
            run_id: The run's id; a continued run keeps it.
            name: What people call it.
            sweep: The sweep's name; runs are grouped by it.
            config: The resolved config.
            directory: The sweep's directory.
        """


class _Silent:
    def progress(self, done: int, total: int) -> None:
        """Nothing."""

    def results(self, summary: Mapping[str, Any], rows: pd.DataFrame) -> None:
        """Nothing."""


@dataclass(frozen=True)
class NoTracker:
    """Report nowhere; wandb is not imported."""

    def open(
        self,
        run_id: str,  # noqa: ARG002
        name: str,  # noqa: ARG002
        sweep: str,  # noqa: ARG002
        config: Mapping[str, Any],  # noqa: ARG002
        directory: Path,  # noqa: ARG002
    ) -> AbstractContextManager[Report]:
        """A report that does nothing."""
        return nullcontext(_Silent())


@dataclass(frozen=True)
class WandB:
    """Weights & Biases.

    Attributes:
        mode: `offline` keeps logs under the sweep's directory for `wandb sync`; `online` needs an
            account; `disabled` does nothing.
        project: The W&B project.
        entity: The W&B team or user; null for the default.
        tags: Tags of the run.
        sample_rows: How many rows go into the table of examples.
    """

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "kn_sweeps"
    entity: str | None = None
    tags: tuple[str, ...] = ()
    sample_rows: int = 50

    @contextmanager
    def open(
        self, run_id: str, name: str, sweep: str, config: Mapping[str, Any], directory: Path
    ) -> Iterator[Report]:
        """Open a W&B run whose id is the run's own and whose group is the sweep."""
        if self.mode == "disabled":
            yield _Silent()  # nothing to draw figures for
            return
        import wandb  # slow to import, and not wanted with tracker=none

        try:
            run = wandb.init(
                id=run_id,
                name=name,
                group=sweep,
                job_type="run",
                project=self.project,
                entity=self.entity,
                tags=list(self.tags),
                config=dict(config),
                mode=self.mode,
                dir=str(directory),
                reinit="finish_previous",
                resume="allow" if self.mode == "online" else None,
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            raise ValueError(
                f"W&B could not be started with tracker.mode={self.mode}: {error}. Use "
                "tracker.mode=offline and sync later, or tracker=none"
            ) from error
        try:
            yield _WandBReport(run, self.sample_rows)
        except BaseException:
            run.finish(exit_code=1)
            raise
        run.finish()


class _WandBReport:
    def __init__(self, run: Any, sample_rows: int) -> None:
        self._run = run
        self._sample_rows = sample_rows

    def progress(self, done: int, total: int) -> None:
        """Log the number of finished cases."""
        self._run.log({"cases": done, "cases_total": total})

    def results(self, summary: Mapping[str, Any], rows: pd.DataFrame) -> None:
        """Write the metrics to the run's summary; log tables of metrics and rows, and figures."""
        import wandb

        for key in ("model", "source", "dataset", "method", "intent", "seed", "cases"):
            self._run.summary[key] = summary[key]
        metrics = summary["metrics"]
        for name, estimate in metrics.items():
            self._run.summary[name] = estimate["value"]
            for part in ("low", "high", "n"):
                self._run.summary[f"{name}_{part}"] = estimate[part]
        # W&B makes charts of what is logged; what is only in the summary fills columns.
        values = {name: e["value"] for name, e in metrics.items() if e["value"] is not None}
        table: list[Iterable[Any]] = [
            [name, *(estimate[part] for part in _PARTS)] for name, estimate in metrics.items()
        ]
        figures = {"headline": _headline_figure(metrics)}
        if "neurons_by_layer" in summary:
            figures["neurons_by_layer"] = _layer_figure(summary["neurons_by_layer"])
        self._run.log(
            {
                **values,
                "metrics": wandb.Table(columns=["metric", *_PARTS], data=table),
                "examples": wandb.Table(
                    dataframe=rows.head(self._sample_rows)[list(_SAMPLE_COLUMNS)]
                ),
                **{
                    name: wandb.Image(_pixels(figure)) for name, figure in figures.items() if figure
                },
            }
        )


def _headline_figure(metrics: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    """The headline metrics with their intervals, a panel a unit; None where there are none."""
    from matplotlib.figure import Figure

    def measured(names: Sequence[str]) -> list[str]:
        return [n for n in names if n in metrics and metrics[n]["value"] is not None]

    panels = {unit: measured(names) for unit, names in _DRAWN.items() if measured(names)}
    if not panels:
        return None
    heights = [len(names) + 1 for names in panels.values()]
    figure = Figure(figsize=(5, 0.8 + 0.35 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for axis, (unit, names) in zip(axes, panels.items(), strict=True):
        for place, name in enumerate(names):
            value, low, high = (metrics[name][part] for part in ("value", "low", "high"))
            axis.plot(value, place, "o", color="#0072b2")
            if low is not None:
                axis.plot([low, high], [place, place], color="#0072b2")
        labels = [f"{name} (n={metrics[name]['n']})" for name in names]
        axis.set(xlabel=unit, yticks=range(len(names)), yticklabels=labels)
        axis.set_ylim(len(names) - 0.5, -0.5)
        if unit == "share of probes":
            axis.set_xlim(-0.03, 1.03)
    return figure


def _layer_figure(counts: Sequence[int]) -> Figure:
    """How many located neurons lie in each layer, from 0."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5, 2.4), layout="constrained")
    axis = figure.subplots()
    axis.bar(range(len(counts)), counts, color="#0072b2")
    axis.set(xlabel="layer", ylabel="located neurons")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _pixels(figure: Figure) -> PIL.Image.Image:
    """A figure as an image; given a figure itself, W&B would import pyplot."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    return Image.open(drawn)
