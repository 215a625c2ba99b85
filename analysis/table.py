"""The comparison table: one row a finished run.

    kn-sweeps table SWEEP... [--json] [--out DIR] [--metrics a,b,c] [--power]
                    [--over seed | --compare METHOD]

SWEEP is its name, its folder, or a folder of sweeps such as results.
The screen shows the headline metrics; table.md and table.csv hold them all.

--compare METHOD   every run minus METHOD's on the same cases, with a paired interval and p-values
                   corrected (Holm) for all that is compared; written to comparison.md and .csv
--over seed        runs that differ in their seed as one, its interval over seeds and edits
--power            mde: the difference between two methods that so many edits can show, which is
                   found in 4 of 5 experiments; smaller ones are not to be read off
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kn_sweeps.commands.console import Parser, command, remark, say
from kn_sweeps.metrics.catalogue import headlines, quantity
from kn_sweeps.records.files import about_files, user_path, write_text
from kn_sweeps.records.folders import common, find_folders, listed

from .comparing import compared_with, over_seeds, with_detectable
from .runs import Run, finished_runs
from .summaries import (
    ABSENT,
    IDENTITY,
    Summary,
    identity,
    identity_columns,
    is_number,
    metric_names,
)

PIPE_WIDTH = 120
GAP = 2
# A backslash first: one that stands before a | would undo the other.
SIGNS = str.maketrans({"\\": "\\\\", "|": "\\|", "<": "&lt;"})


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
    power = "" if estimate.get("mde") is None else f" mde={number(estimate['mde'])}"
    return f"{number(estimate['value'])}{shown} n={estimate['n']}{power}"


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
        print_rows(block)


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    """Print rows with their columns aligned."""
    widths = [max(map(len, column)) for column in _transposed(rows)]
    for row in rows:
        cells = (text.ljust(wide) for text, wide in zip(row, widths, strict=True))
        say((" " * GAP).join(cells).rstrip())


def markdown(summaries: Sequence[Summary]) -> str:
    """All metrics as one Markdown table, and what each of them is."""
    names = metric_names(summaries)
    table = markdown_rows(next(blocks(summaries, names, sys.maxsize)))
    protocols = [f"- protocol: {line.translate(SIGNS)}\n" for line in protocol_lines(summaries)]
    meanings = [f"- `{one.name}`: {one}\n" for one in map(quantity, names) if one.meaning]
    below = "".join([*meanings, *protocols])
    return f"{table}\n{below}" if below else table


def markdown_rows(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table; the first is its head."""
    head, *others = rows
    lines = [head, ["---"] * len(head), *others]
    escaped = ([text.translate(SIGNS) for text in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


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

    And `NAME_mde` where it was asked for. What a run does not have is None.
    """
    columns = ["run_id", "sweep", *IDENTITY, "seed", "protocol"]
    telling = [c for c in identity_columns(summaries) if c not in (*columns, "run")]
    parts = {"value": "", "low": "_low", "high": "_high", "n": "_n"}
    if any("mde" in estimate for s in summaries for estimate in s["metrics"].values()):
        parts["mde"] = "_mde"
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


def comma_separated(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, with an empty cell for None; see `unevaluated` for texts."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(unevaluated, rows[0]))
    writer.writerows(map(unevaluated, row.values()) for row in rows)
    return text.getvalue()


def unevaluated(value: Any) -> Any:
    """A CSV cell that no spreadsheet takes for a formula: a `'` stands before what could be one.

    Source: OWASP, "CSV Injection". A text that is a number is left as it is.
    """
    risky = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if risky and not is_number(value) else value


def write_files(folder: Path, name: str, markdown: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table as Markdown and as CSV.

    Raises:
        ValueError: If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{name}.md", markdown)
        write_text(folder / f"{name}.csv", comma_separated(rows))
    except OSError as error:
        raise ValueError(f"could not write the table to {folder}: {about_files(error)}") from error
    remark(f"all of it: {folder / name}.md, {folder / name}.csv")


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
    parser.add_argument("--power", action="store_true", help="the difference that n can show")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--over", choices=["seed"], help="runs that differ in it as one")
    how.add_argument("--compare", metavar="METHOD", help="every run minus METHOD's")
    chosen = parser.parse_args(arguments)
    if chosen.power and chosen.over:
        parser.error("--power says what the edits of one run can show: leave out --over")
    return chosen


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Show and write the table; 1 where a summary could not be read, though others could."""
    args = parse(arguments)
    folders = find_folders(args.sweeps)
    runs, found = finished_runs(*folders)
    for path, reason in found.broken.items():
        remark(f"could not read {path}: {reason}")
    if not found.summaries:
        if args.json:
            say("[]")
        raise ValueError(f"no finished runs below {listed(folders)}; {found.unfinished} unfinished")
    metrics = chosen_metrics(args.metrics, found.summaries)
    out = args.out or common(folders)
    if args.compare is None:
        _table(args, runs, metrics, out)
    else:
        _comparison(args, runs, metrics if args.metrics else None, out)
    for line in protocol_lines(found.summaries):
        remark(f"protocol: {line}")
    if found.unfinished:
        remark(f"not shown: {found.unfinished} unfinished")
    return int(bool(found.broken))


def _table(
    args: argparse.Namespace, runs: Sequence[Run], metrics: Sequence[str], out: Path
) -> None:
    """One row a run, or a run of all seeds."""
    name = "table_over_seed" if args.over else "table"
    summaries = over_seeds(runs) if args.over else [run.summary for run in runs]
    if args.power:
        summaries = with_detectable(runs)
    if args.json:
        say(json.dumps(summaries, indent=2, allow_nan=False))
    else:
        show(summaries, metrics)
    write_files(out, name, markdown(summaries), in_columns(summaries))


def _comparison(
    args: argparse.Namespace, runs: Sequence[Run], metrics: Sequence[str] | None, out: Path
) -> None:
    """One row a run and metric: what it differs by from the method it is compared with."""
    found = [one.columns() for one in compared_with(runs, args.compare, metrics)]
    rows = comparison_rows(found, power=args.power)
    if args.json:
        say(json.dumps(found, indent=2, allow_nan=False))
    else:
        print_rows(rows)
    write_files(out, "comparison", markdown_rows(rows), found)


def comparison_rows(found: Sequence[Mapping[str, Any]], *, power: bool) -> list[list[str]]:
    """Differences as a table's rows: what is the same for all of them is left out."""
    named = ("model", "source", "dataset", "intent")
    telling = [c for c in named if len({one[c] for one in found}) > 1]
    numbers = ["p", "p_holm", *(["mde"] if power else [])]
    head = [*telling, "method", "minus", "metric", "difference", *numbers]
    return [head] + [
        [
            *(one_line(str(one[c])) for c in (*telling, "method", "minus", "metric")),
            cell(
                {"value": one["difference"], **{part: one[part] for part in ("low", "high", "n")}}
            ),
            *(number(one[c]) for c in numbers),
        ]
        for one in found
    ]


if __name__ == "__main__":
    sys.exit(main())
