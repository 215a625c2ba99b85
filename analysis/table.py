"""The comparison table: one row a finished run.

    python -m analysis.table RESULTS_DIR [--json] [--out DIR] [--metrics a,b,c]

The screen shows the headline metrics; table.md and table.csv hold them all.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from analysis.shards import joined
from kn_sweeps.config import CANNOT_CHANGE_ROWS
from kn_sweeps.files import user_path, write_text

Summary = dict[str, Any]

IDENTITY = ("model", "source", "dataset", "method", "intent", "cases")
TELL_APART = ("seed", "shard", "sweep")
HEADLINE = (
    "reliability",
    "generality",
    "locality",
    "symmetry",
    "synonymy",
    "flip_rate",
    "effect_size",
)
NOT_A_RUN = {".hydra", "wandb"}  # these keep a config.yaml of their own inside a run
PIPE_WIDTH = 120
GAP = 2


@dataclass(frozen=True)
class Found:
    """What lies below a results folder.

    Attributes:
        summaries: Finished runs, by dataset, model and method.
        broken: Why a finished run could not be read, by the path of its summary.
        unfinished: Number of run directories without a summary.
    """

    summaries: list[Summary]
    broken: dict[Path, str]
    unfinished: int


def find_runs(folder: Path) -> Found:
    """Read every run below a folder; one that cannot be read hides no other."""
    read: dict[Path, Summary] = {}
    broken: dict[Path, str] = {}
    for path in sorted(folder.rglob("summary.json")):
        try:
            read[path.parent] = read_summary(path)
        except (OSError, ValueError) as error:
            broken[path] = str(error)
    try:
        summaries = joined(read)
    except (OSError, ValueError) as error:
        summaries = list(read.values())
        broken[folder] = f"shards could not be joined: {error}"
    configs = [c.relative_to(folder) for c in folder.rglob("config.yaml")]
    runs = [folder / c.parent for c in configs if not NOT_A_RUN & {*c.parts}]
    unfinished = sum(not (run / "summary.json").exists() for run in runs)
    order = ("dataset", "model", "method", "source", "intent", "cases", "seed", "run_id")
    # Numbers are padded, so that seed 2 comes before seed 10.
    summaries.sort(
        key=lambda s: [f"{s[k]:9}" if isinstance(s[k], int) else str(s[k]) for k in order]
    )
    return Found(summaries, broken, unfinished)


def read_summary(path: Path) -> Summary:
    """Read one summary.

    Args:
        path: A summary.json at <sweep>/<run id>/summary.json.

    Returns:
        Its content, with the `sweep` it lies in where it does not say, and the `settings` that can
        change a row by their dotted names, from the config beside it.

    Raises:
        ValueError: If it is not JSON or lacks what a row needs.
    """
    # JSON has no NaN, but Python writes it and other readers choke on it: nothing was measured.
    summary = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    if not isinstance(summary, dict):
        raise ValueError(f"expected a JSON object, got {type(summary).__name__}")
    missing = [key for key in (*IDENTITY, "run_id", "seed", "metrics") if key not in summary]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    metrics = summary["metrics"]
    if not isinstance(metrics, dict):
        raise ValueError(f"metrics must be an object, got {type(metrics).__name__}")
    for name, estimate in metrics.items():
        if not _is_estimate(estimate):
            raise ValueError(f"metric {name} must have value, low, high and n, got {estimate!r}")
    settings = _settings(path.parent / "config.yaml")
    return {"sweep": path.parent.parent.name, "settings": settings} | summary


def _settings(path: Path) -> dict[str, str]:
    """A config's values by dotted name, without what cannot change a row; none if it is absent."""
    try:
        config = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, yaml.YAMLError):
        config = {}
    found: dict[str, str] = {}

    def walk(node: object, name: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{name}.{key}" if name else str(key))
        elif not name.endswith("_target_"):
            found[name] = str(node)

    if isinstance(config, dict):
        # What else a model's config says is a default of its methods, and stands in theirs.
        model = {k: v for k, v in config.pop("model", {}).items() if k == "start_token"}
        walk({k: v for k, v in config.items() if k not in CANNOT_CHANGE_ROWS}, "")
        walk(model, "model")
    return found


def _is_estimate(estimate: object) -> bool:
    """Whether a value has all parts of an estimate, as numbers or null."""
    parts = ("value", "low", "high", "n")
    return isinstance(estimate, dict) and all(
        part in estimate and isinstance(estimate[part], int | float | None) for part in parts
    )


def identity(summary: Summary, column: str) -> str:
    """One identity cell of a run; `run` is short for its id, a control names what it controls."""
    if column == "method" and summary.get("of"):
        return f"{summary['method']}({summary['of']})"
    if column == "run":
        return str(summary["run_id"])[:8]
    value = summary.get(column, summary.get("settings", {}).get(column))
    return "-" if value is None else str(value)


def identity_columns(summaries: Sequence[Summary]) -> list[str]:
    """The columns that name a run, and as many more as it takes to tell all runs apart."""
    columns = list(IDENTITY)
    settings = dict.fromkeys(name for summary in summaries for name in summary.get("settings", {}))
    for extra in (*TELL_APART, *sorted(settings, key=_by_importance), "run"):
        coarse = {tuple(identity(s, c) for c in columns) for s in summaries}
        fine = {tuple(identity(s, c) for c in (*columns, extra)) for s in summaries}
        if len(fine) > len(coarse):
            columns.append(extra)
    return columns


def _by_importance(setting: str) -> tuple[bool, bool, str]:
    """What a method does comes first, then how the run goes, then the data."""
    return setting.startswith("dataset."), not setting.startswith("method."), setting


def number(value: float | None) -> str:
    """Two decimals, or scientific where those would show nothing or too much."""
    if value is None:
        return "-"
    plain = value == 0 or 0.01 <= abs(value) < 10_000
    return f"{value:.2f}" if plain else f"{value:.1e}"


def cell(estimate: dict[str, Any] | None) -> str:
    """An estimate in one cell: `0.95 [0.90, 0.98] n=40`."""
    if estimate is None:
        return "-"
    interval = f" [{number(estimate['low'])}, {number(estimate['high'])}]"
    shown = "" if estimate["low"] is None else interval
    return f"{number(estimate['value'])}{shown} n={estimate['n']}"


def metric_names(summaries: Sequence[Summary]) -> list[str]:
    """Every metric that some run has: the headline first, then as the runs list them."""
    present = dict.fromkeys(name for s in summaries for name in s["metrics"])
    return [n for n in HEADLINE if n in present] + [n for n in present if n not in HEADLINE]


def blocks(
    summaries: Sequence[Summary], metrics: Sequence[str], width: int
) -> Iterator[list[list[str]]]:
    """Lay the table out in blocks that fit a width, each with its head as the first row.

    The first block names every run in full; the next ones name them by what differs and leave
    out runs that have none of their metrics. A block holds at least one metric, so a very narrow
    terminal is overrun, not truncated.
    """
    named = [[c, *(identity(s, c) for s in summaries)] for c in identity_columns(summaries)]
    differing = [column for column in named if len(set(column[1:])) > 1]
    short = differing or [column for column in named if column[0] in ("model", "method")]
    scores = [[m, *(cell(s["metrics"].get(m)) for s in summaries)] for m in metrics]
    start, shown = named, 0
    while shown < len(scores) or start is named:
        stop = shown + 1
        while stop < len(scores) and _width(start + scores[shown : stop + 1]) <= width:
            stop += 1
        head, *rows = _transposed(start + scores[shown:stop])
        measured = [row for row in rows if start is named or set(row[len(start) :]) != {"-"}]
        yield [head, *measured]
        start, shown = short, stop


def _width(columns: Sequence[Sequence[str]]) -> int:
    """Characters that columns take side by side."""
    return sum(max(map(len, column)) for column in columns) + GAP * (len(columns) - 1)


def _transposed(columns: Sequence[Sequence[str]]) -> list[list[str]]:
    """Columns as rows, and back."""
    return [list(row) for row in zip(*columns, strict=True)]


def show(summaries: Sequence[Summary], metrics: Sequence[str]) -> None:
    """Print the table: as wide as the terminal, or 120 columns where there is none."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    for index, block in enumerate(blocks(summaries, metrics, width)):
        print(end="\n" if index else "")
        widths = [max(map(len, column)) for column in _transposed(block)]
        for row in block:
            cells = (text.ljust(wide) for text, wide in zip(row, widths, strict=True))
            print((" " * GAP).join(cells).rstrip())


def markdown(summaries: Sequence[Summary]) -> str:
    """All metrics as one Markdown table."""
    (head, *rows) = next(blocks(summaries, metric_names(summaries), sys.maxsize))
    lines = [head, ["---"] * len(head), *rows]
    escaped = ([text.replace("|", "\\|") for text in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def comma_separated(summaries: Sequence[Summary]) -> str:
    """All metrics as CSV: `NAME`, `NAME_low`, `NAME_high` and `NAME_n` for each."""
    columns = ["run_id", "sweep", *IDENTITY, "seed"]
    telling = [c for c in identity_columns(summaries) if c not in (*columns, "run")]
    parts = {"value": "", "low": "_low", "high": "_high", "n": "_n"}
    metrics = [(name, part) for name in metric_names(summaries) for part in parts]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns + telling + [name + parts[part] for name, part in metrics])
    for s in summaries:
        numbers = [s["metrics"].get(name, {}).get(part) for name, part in metrics]
        writer.writerow([s[c] for c in columns] + [identity(s, c) for c in telling] + numbers)
    return text.getvalue()


def write_files(folder: Path, summaries: Sequence[Summary]) -> int:
    """Write both tables; returns 1 where the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "table.md", markdown(summaries))
        write_text(folder / "table.csv", comma_separated(summaries))
    except OSError as error:
        return _say(f"could not write the table to {folder}: {error}")
    return _say(f"all metrics: {folder / 'table.md'}, {folder / 'table.csv'}", status=0)


def chosen_metrics(wanted: str | None, summaries: Sequence[Summary]) -> list[str]:
    """The metrics to show: those asked for, else the headline, else all there are."""
    present = metric_names(summaries)
    if wanted is None:
        return [name for name in present if name in HEADLINE] or present
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if unknown := [name for name in names if name not in present]:
        raise ValueError(
            f"no run has the metric {', '.join(unknown)}; there are {', '.join(present)}"
        )
    return names


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m analysis.table", description="One row a run.")
    parser.add_argument("results", type=user_path, help="folder with finished runs at any depth")
    parser.add_argument("--json", action="store_true", help="print the summaries as JSON instead")
    parser.add_argument("--out", type=user_path, help="where the table files go (default: RESULTS)")
    parser.add_argument("--metrics", help="metrics to show, separated by commas")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Show and write the table.

    Returns:
        0; 1 where there is nothing to show or a summary could not be read; 2 for a wrong argument.
    """
    args = parse(arguments)
    if not args.results.is_dir():
        return _say(f"there is no folder {args.results}", status=2)
    found = find_runs(args.results)
    for path, reason in found.broken.items():
        _say(f"could not read {path}: {reason}")
    if not found.summaries:
        _say(f"no finished runs below {args.results}; {found.unfinished} unfinished")
        if args.json:
            print("[]")
        return 1
    try:
        metrics = chosen_metrics(args.metrics, found.summaries)
    except ValueError as error:
        return _say(str(error), status=2)
    if args.json:
        print(json.dumps(found.summaries, indent=2, allow_nan=False))
    else:
        show(found.summaries, metrics)
    if found.unfinished:
        _say(f"not shown: {found.unfinished} unfinished")
    return write_files(args.out or args.results, found.summaries) or int(bool(found.broken))


def _say(message: str, status: int = 1) -> int:
    """Say something on standard error, for standard output carries the table alone."""
    print(message, file=sys.stderr)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
