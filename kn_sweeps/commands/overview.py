"""The state of a sweep as people read it: counts, the list of runs, and when it will be over."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kn_sweeps.progress.interruption import STOPPED
from kn_sweeps.progress.pace import pace
from kn_sweeps.records.status import FAILED
from kn_sweeps.sweeps.states import DONE, LOST, RUNNING, STATES, WAITING, RunState, outlook, rate

_COLOURS = {
    RUNNING: "cyan",
    DONE: "green",
    FAILED: "bold red",
    LOST: "bold red",
    STOPPED: "yellow",
    "timed out": "yellow",
    "preempted": "yellow",
}
_TAIL_BYTES, _SHOWN_CHARACTERS = 4000, 200


def shown(sweep: Path, found: Sequence[RunState], limit: int | None = None) -> Group:
    """The state of a sweep for people.

    Args:
        sweep: Its directory.
        found: The states of its runs.
        limit: Rows of the list of runs; the rest is counted. None for all.
    """
    return Group(_counts(sweep, found), Text(), *_runs(found, limit), _end(found))


def _counts(sweep: Path, found: Sequence[RunState]) -> Table:
    """How many runs are in which state, by model and method."""
    there = [state for state in STATES if any(s.state == state for s in found)]
    table = Table(title=f"sweep {sweep.name}", title_justify="left", box=None, pad_edge=False)
    table.add_column("model")
    table.add_column("method")
    for state in there:
        table.add_column(state, justify="right", style=_COLOURS.get(state))
    groups: dict[tuple[str, str], Counter[str]] = {}
    for one in found:
        groups.setdefault(_group(one), Counter())[one.state] += 1
    total: Counter[str] = Counter(one.state for one in found)
    for (model, method), counts in sorted(groups.items()):
        table.add_row(model, method, *(str(counts[state] or "") for state in there))
    if len(groups) > 1:
        table.add_row("all", "", *(str(total[state]) for state in there), style="bold")
    return table


def _group(one: RunState) -> tuple[str, str]:
    config = one.run.config
    return config["model"]["label"], str(config["method"]["_target_"]).split(".")[-2]


def _runs(found: Sequence[RunState], limit: int | None) -> list[Any]:
    """The runs that are not over, then the others, as many as fit."""
    first = list(dict.fromkeys((RUNNING, FAILED, LOST, *STATES)))
    rows = sorted(found, key=lambda one: first.index(one.state))
    table = Table(box=None, pad_edge=False)
    for column in ("run", "state", "cases", "rate", "job", "what"):
        table.add_column(column, justify="right" if column in ("cases", "rate") else "left")
    for one in rows[:limit]:
        table.add_row(
            one.run.id,
            Text(one.state, style=_COLOURS.get(one.state, "")),
            _cases(one),
            _rate(one),
            one.job or str(one.status.get("where", {}).get("job") or "-"),
            Text.assemble(one.run.name, ("  " + _what(one), "red"), ("  " + _within(one), "dim")),
        )
    rest = len(rows) - len(rows[:limit])
    return [table, *([Text(f"and {rest} more")] if rest else [])]


def _what(one: RunState) -> str:
    """What else there is to say of a run: why it failed, waits or, as far as it is known, died."""
    if one.state in (RUNNING, DONE):
        return ""
    if one.idle:
        return "for a new launch: never begun"
    if one.state == WAITING:
        return one.reason
    told = str(one.status.get("damaged") or one.status.get("error") or "")
    return told or (_last_words(one) if one.state == LOST else "")


def _last_words(one: RunState) -> str:
    """The last line in the log of a lost run's task, which may name a module that is missing."""
    for path in task_logs(one, ".err"):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
        if told := [line.strip() for line in lines if line.strip()]:
            return told[-1][:_SHOWN_CHARACTERS]
    return ""


def task_logs(one: RunState, suffix: str) -> list[Path]:
    """What a run's task printed, the newest first."""
    job = one.status.get("where", {}).get("job") or one.launch.job_of(one.task)
    found = [*one.launch.folder.glob(f"{job}_*{suffix}")] if job else []
    found += one.launch.folder.glob(f"task-{one.task}{suffix}")
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _within(one: RunState) -> str:
    return str(one.status.get("within", "")) if one.state == RUNNING else ""


def _cases(one: RunState) -> str:
    return f"{one.status['done']}/{one.status['total']}" if "total" in one.status else "-"


def _rate(one: RunState) -> str:
    speed = rate(one) if one.state == RUNNING else None
    if speed is None:
        return "-"
    return pace(speed)


def _end(found: Sequence[RunState]) -> Text:
    expected = outlook(found)
    said = f"{expected.runs_done} of {expected.runs} runs done"
    if idle := sum(one.idle for one in found):
        said += f"; {idle} wait for a new launch (the same command, or retry)"
    if expected.seconds_left is None:
        return Text(f"{said}; nothing tells yet when the others will be")
    if expected.seconds_left == 0:
        return Text(said)
    end = datetime.fromtimestamp(time.time() + expected.seconds_left, UTC).astimezone()
    return Text(f"{said}; expected end {end:%Y-%m-%d %H:%M} if it goes on like this")
