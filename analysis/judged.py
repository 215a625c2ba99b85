"""Answers for people or other programs to judge, and their verdicts as a scorer.

    kn-sweeps judged SWEEP... --ask FILE     # a line an answer, with an empty verdict
    kn-sweeps judged SWEEP... --take FILE    # the same file, with verdicts: reliability_judged, ...

FILE is .csv or .jsonl. A line has the question, the target with its aliases, and the answer, and
stands for all runs that gave it: yes where the answer gives the target, no where it does not, empty
for nobody knows. No service is called.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from kn_sweeps.commands.console import Parser, command, remark, say
from kn_sweeps.config import build
from kn_sweeps.metrics.answers import ScoredMetric
from kn_sweeps.metrics.base import measured
from kn_sweeps.metrics.verdicts import Answered, answers_of, asked_for
from kn_sweeps.mistakes import shortened
from kn_sweeps.records.files import user_path, write_atomically
from kn_sweeps.records.folders import find_folders, listed
from kn_sweeps.records.run_directory import RunDirectory, runs_below
from kn_sweeps.records.summary import protocol

COLUMNS = ("id", *Answered._fields, "verdict")
YES, NO = ("yes", "true", "1", "correct", "right"), ("no", "false", "0", "incorrect", "wrong")


def ask(runs: Sequence[RunDirectory], file: Path) -> int:
    """Write the distinct answers of some runs; how many there are."""
    found: dict[str, Answered] = {}
    for run in runs:
        rows = run.rows()
        for when, target in asked_for(rows):
            found |= {one.id: one for one in answers_of(rows, when, target) if one is not None}
    lines = [
        {"id": name, **one._asdict(), "aliases": list(one.aliases), "verdict": ""}
        for name, one in found.items()
    ]
    table = pd.DataFrame(lines, columns=list(COLUMNS)).sort_values(
        ["question", "target", "answer"], kind="stable"
    )
    if file.suffix == ".jsonl":
        write_atomically(
            file, lambda at: table.to_json(at, orient="records", lines=True, force_ascii=False)
        )
    else:
        table["aliases"] = table["aliases"].map(" | ".join)
        write_atomically(file, lambda at: table.to_csv(at, index=False))
    return len(table)


def read(file: Path) -> dict[str, float]:
    """The verdicts of a file, by answer.

    Raises:
        ValueError: If it is no such file, or a verdict is none; with its line.
    """
    try:
        if file.suffix == ".jsonl":
            table = pd.read_json(file, lines=True, dtype=False)
        else:
            table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {shortened(str(error))}") from error
    missing = [name for name in ("id", "verdict") if name not in table.columns]
    if missing:
        raise ValueError(
            f"{file} has no column {' and no '.join(missing)}; it has {', '.join(table.columns)}"
        )
    verdicts: dict[str, float] = {}
    for number, (name, said) in enumerate(
        zip(table["id"].astype(str), table["verdict"], strict=True),
        start=1 if file.suffix == ".jsonl" else 2,
    ):
        word = _word(said)
        if not word:
            continue
        if word not in (*YES, *NO):
            raise ValueError(
                f"{file}, line {number}: the verdict {shortened(repr(said))} is neither yes nor no "
                "(nor empty)"
            )
        verdict = float(word in YES)
        if verdicts.setdefault(name, verdict) != verdict:
            raise ValueError(f"{file}, line {number}: {name} was judged otherwise before")
    return verdicts


def _word(said: object) -> str:
    """A verdict in lower case; empty where there is none."""
    if said is None or (isinstance(said, float) and pd.isna(said)):
        return ""
    if isinstance(said, float) and said.is_integer():
        said = int(said)
    return str(said).strip().lower()


def take(run: RunDirectory, verdicts: dict[str, float]) -> tuple[int, int]:
    """Score a finished run by verdicts, which stay with it.

    Returns:
        How many of its answers were judged, of how many.
    """
    rows = run.rows()
    every = {
        one.id
        for when, target in asked_for(rows)
        for one in answers_of(rows, when, target)
        if one is not None
    }
    own = {**run.verdicts(), **{name: one for name, one in verdicts.items() if name in every}}
    summary = run.summary()
    with run.opened():
        run.write_verdicts(own)
        judged = measured(
            [replace(one, beside=("judged",)) for one in _metrics(run)], run.results()
        )
        of_judges = {name: one for name, one in judged.items() if name.endswith("_judged")}
        said = protocol(run.config(), summary["intent"], judged=bool(own))
        run.finish({**summary, "metrics": summary["metrics"] | of_judges, "protocol": said})
    return len(own), len(every)


def _metrics(run: RunDirectory) -> Iterator[ScoredMetric]:
    for name, node in run.config()["metric"].items():
        metric = build(node, at=f"metric.{name}")
        if isinstance(metric, ScoredMetric):
            yield metric


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Write answers to judge, or read verdicts."""
    parser = Parser.of("judged", __doc__, "python -m analysis.judged")
    parser.add_argument("sweeps", nargs="+", metavar="SWEEP", help="its name, or its folder")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--ask", type=user_path, metavar="FILE", help="write the answers here")
    which.add_argument("--take", type=user_path, metavar="FILE", help="read the verdicts here")
    chosen = parser.parse_args(arguments)
    file = chosen.ask or chosen.take
    if file.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"{file}: name a .csv or a .jsonl file")
    sweeps = find_folders(chosen.sweeps)
    runs = [run for run in runs_below(*sweeps) if run.done()]
    if not runs:
        raise ValueError(f"{listed(sweeps)} has no finished run")
    if chosen.ask:
        say(f"{ask(runs, file)} answers of {len(runs)} runs to judge: {file}")
        return
    verdicts = read(file)
    for run in runs:
        judged, every = take(run, verdicts)
        (say if judged == every else remark)(f"{run.path}: {judged} of {every} answers are judged")


if __name__ == "__main__":
    sys.exit(main())
