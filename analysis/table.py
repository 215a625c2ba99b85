"""The comparison table: one row a finished run.

    kn-sweeps table SWEEP... [--json] [--out DIR] [--metrics a,b,c]

SWEEP is its name, its folder, or a folder of sweeps such as results.
The screen shows the headline metrics; table.md and table.csv hold them all.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kn_sweeps.commands.console import Parser, command, remark, say
from kn_sweeps.metrics.catalogue import headlines, quantity
from kn_sweeps.records.files import about_files, user_path, write_text
from kn_sweeps.records.folders import common, find_folders, listed

from .summaries import (
    ABSENT,
    IDENTITY,
    Summary,
    find_runs,
    identity,
    identity_columns,
    is_number,
    metric_names,
)

PIPE_WIDTH = 120
GAP = 2


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


def blocks(
    summaries: Sequence[Summary], metrics: Sequence[str], width: int
) -> Iterator[list[list[str]]]:
    """Lay the table out in blocks that fit a width, each with its head as the first row.

    The first block names every run in full; the next ones name them by what differs and leave
    out runs that have none of their metrics. A block holds at least one metric, so a very narrow
    terminal is overrun, not truncated.
    """
    named = [
        [one_line(c), *(one_line(identity(s, c)) for s in summaries)]
        for c in identity_columns(summaries)
    ]
    differing = [column for column in named if len(set(column[1:])) > 1]
    short = differing or [column for column in named if column[0] in ("model", "method")]
    scores = [[one_line(m), *(cell(s["metrics"].get(m)) for s in summaries)] for m in metrics]
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


def one_line(text: str) -> str:
    """Text without line breaks and other control characters, which a terminal would obey."""
    return "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)


def show(summaries: Sequence[Summary], metrics: Sequence[str]) -> None:
    """Print the table: as wide as the terminal, or 120 columns where there is none."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    for index, block in enumerate(blocks(summaries, metrics, width)):
        say(end="\n" if index else "")
        widths = [max(map(len, column)) for column in _transposed(block)]
        for row in block:
            cells = (text.ljust(wide) for text, wide in zip(row, widths, strict=True))
            say((" " * GAP).join(cells).rstrip())


def markdown(summaries: Sequence[Summary]) -> str:
    """All metrics as one Markdown table, and what each of them is."""
    names = metric_names(summaries)
    (head, *rows) = next(blocks(summaries, names, sys.maxsize))
    lines = [head, ["---"] * len(head), *rows]
    # A backslash first: one that stands before a | would undo the other.
    signs = str.maketrans({"\\": "\\\\", "|": "\\|", "<": "&lt;"})
    escaped = ([text.translate(signs) for text in line] for line in lines)
    table = "".join(f"| {' | '.join(line)} |\n" for line in escaped)
    protocols = [f"- protocol: {line.translate(signs)}\n" for line in protocol_lines(summaries)]
    meanings = [f"- `{one.name}`: {one}\n" for one in map(quantity, names) if one.meaning]
    below = "".join([*meanings, *protocols])
    return f"{table}\n{below}" if below else table


def protocol_lines(summaries: Sequence[Summary]) -> list[str]:
    """How the numbers came about: every protocol once, with its runs where there are several."""
    runs: dict[str, list[str]] = {}
    for one in summaries:
        if "protocol" in one:
            runs.setdefault(one_line(one["protocol"]), []).append(identity(one, "method"))
    if len(runs) < 2:
        return list(runs)
    return [f"{', '.join(dict.fromkeys(names))}: {text}" for text, names in runs.items()]


def in_columns(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """One row a run: what names it, and `NAME`, `NAME_low`, `NAME_high`, `NAME_n` for each metric.

    What a run does not have is None.
    """
    columns = ["run_id", "sweep", *IDENTITY, "seed", "protocol"]
    telling = [c for c in identity_columns(summaries) if c not in (*columns, "run")]
    parts = {"value": "", "low": "_low", "high": "_high", "n": "_n"}
    rows = []
    for s in summaries:
        told = {c: None if (found := identity(s, c)) == ABSENT else found for c in telling}
        numbers = {
            name + parts[part]: s["metrics"].get(name, {}).get(part)
            for name in metric_names(summaries)
            for part in parts
        }
        rows.append({**{c: s.get(c) for c in columns}, **told, **numbers})
    return rows


def comma_separated(summaries: Sequence[Summary]) -> str:
    """All metrics as CSV: the cells of `in_columns`, an empty one for None.

    See `unevaluated` for texts.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    rows = in_columns(summaries)
    writer.writerow(map(unevaluated, rows[0]))
    writer.writerows(map(unevaluated, row.values()) for row in rows)
    return text.getvalue()


def unevaluated(value: Any) -> Any:
    """A CSV cell that no spreadsheet takes for a formula: a `'` stands before what could be one.

    Source: OWASP, "CSV Injection". A text that is a number is left as it is.
    """
    risky = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if risky and not is_number(value) else value


def write_files(folder: Path, summaries: Sequence[Summary]) -> None:
    """Write both tables.

    Raises:
        ValueError: If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "table.md", markdown(summaries))
        write_text(folder / "table.csv", comma_separated(summaries))
    except OSError as error:
        raise ValueError(f"could not write the table to {folder}: {about_files(error)}") from error
    remark(f"all metrics: {folder / 'table.md'}, {folder / 'table.csv'}")


def chosen_metrics(wanted: str | None, summaries: Sequence[Summary]) -> list[str]:
    """The metrics to show: those asked for, else the headline, else all there are."""
    present = metric_names(summaries)
    if wanted is None:
        return headlines(present) or present
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if unknown := [name for name in names if name not in present]:
        raise ValueError(
            f"no run has the metric {', '.join(unknown)}; there are {', '.join(present)}"
        )
    return names


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser.of("table", __doc__, "python -m analysis.table")
    parser.add_argument(
        "sweeps", nargs="+", metavar="SWEEP", help="a sweep's name, its folder, or a folder of them"
    )
    parser.add_argument("--json", action="store_true", help="print the summaries as JSON instead")
    parser.add_argument("--out", type=user_path, help="where the table files go (default: SWEEP)")
    parser.add_argument("--metrics", help="metrics to show, separated by commas")
    return parser.parse_args(arguments)


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Show and write the table; 1 where a summary could not be read, though others could."""
    args = parse(arguments)
    folders = find_folders(args.sweeps)
    found = find_runs(*folders)
    for path, reason in found.broken.items():
        remark(f"could not read {path}: {reason}")
    if not found.summaries:
        if args.json:
            say("[]")
        raise ValueError(f"no finished runs below {listed(folders)}; {found.unfinished} unfinished")
    metrics = chosen_metrics(args.metrics, found.summaries)
    if args.json:
        say(json.dumps(found.summaries, indent=2, allow_nan=False))
    else:
        show(found.summaries, metrics)
        for line in protocol_lines(found.summaries):
            remark(f"protocol: {line}")
    if found.unfinished:
        remark(f"not shown: {found.unfinished} unfinished")
    write_files(args.out or common(folders), found.summaries)
    return int(bool(found.broken))


if __name__ == "__main__":
    sys.exit(main())
