"""What ran, what did not, on what data, and with what code."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kn_sweeps.records.run_directory import runs_below
from kn_sweeps.records.status import read_status
from kn_sweeps.sweeps.states import DONE, RUNNING, every_run

from ..runs import Run
from ..summaries import Found, identity

UNFINISHED = "unfinished"
"""A run directory that no launch knows and whose own status says nothing."""


@dataclass(frozen=True)
class Unfinished:
    """A run that is not done.

    Attributes:
        run: Its id.
        state: One of `kn_sweeps.sweeps.states.STATES`, or `unfinished`.
        what: Its overrides, as they were launched.
        cases: Cases done, of how many.
        error: Why it failed.
    """

    run: str
    state: str
    what: str
    cases: str
    error: str


@dataclass(frozen=True)
class Overview:
    """What the first section says.

    Attributes:
        counts: How many runs are in which state, the finished ones first.
        facts: What the finished runs have in common or differ in: a term and its values.
        unfinished: The runs that are not done.
        broken: By file, relative to the folder, why a finished run could not be read.
        note: What could not be found out.
    """

    counts: list[tuple[str, int]]
    facts: list[tuple[str, list[str]]]
    unfinished: list[Unfinished]
    broken: dict[str, str]
    note: str


def overview(folders: Sequence[Path], runs: Sequence[Run], found: Found) -> Overview:
    """Look at everything below the sweeps' folders."""
    looked_at = [_unfinished(folder) for folder in folders]
    unfinished = list({one: None for found_here, _ in looked_at for one in found_here})
    counts = Counter(one.state for one in unfinished)
    broken = {_relative(path, folders): reason for path, reason in found.broken.items()}
    return Overview(
        counts=[
            ("finished", len(runs)),
            *sorted(counts.items()),
            *([("unreadable", len(broken))] if broken else []),
        ],
        facts=_facts(runs),
        unfinished=unfinished,
        broken=broken,
        note=" ".join(dict.fromkeys(note for _, note in looked_at if note)),
    )


def duration(seconds: float) -> str:
    """A time span for people: `12 s`, `3 min 20 s`, `5 h 2 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def date(seconds: float) -> str:
    """A time of day in UTC, to the minute."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def commit(run: Run) -> str:
    """The commit a run was made with, and whether files differed from it."""
    codes = run.provenance.get("commits") or [run.provenance]
    known = ", then ".join(str(code["commit"])[:12] for code in codes if code.get("commit"))
    if not known:
        return "unknown"
    return f"{known}{' + uncommitted changes' if run.provenance.get('dirty') else ''}"


def _unfinished(folder: Path) -> tuple[list[Unfinished], str]:
    """Every run that is not done: those that were launched, then directories of others."""
    note = ""
    try:
        known = every_run(folder)
    except (ValueError, OSError) as error:
        known, note = {}, f"The state of launched runs is not known: {error}"
    found = [
        Unfinished(
            *(one.run.id, one.state, one.run.name, _cases(one.status)),
            str(one.status.get("error", "")) if one.state != RUNNING else "",
        )
        for one in known.values()
        if one.state != DONE
    ]
    for run in runs_below(folder):
        name = run.path.name
        if name in known or run.done():
            continue
        status = read_status(run.path)
        state = str(status.get("state", UNFINISHED))
        found.append(Unfinished(name, state, "", _cases(status), str(status.get("error", ""))))
    return found, note


def _cases(status: object) -> str:
    if isinstance(status, dict) and "total" in status:
        return f"{status['done']} of {status['total']}"
    return "-"


def _facts(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """What finished runs were done with; how many runs where they differ."""
    summaries = [(run, run.summary, run.provenance) for run in runs]
    ended = [run.ended for run in runs if run.ended is not None]
    seconds = sum(float(p["seconds"]) for _, _, p in summaries)
    failed = sum(int(s.get("failed") or 0) for _, s, _ in summaries)
    facts = {
        "models": _counted(
            _with(s["model"], revision=p.get("model_revision")) for _, s, p in summaries
        ),
        "data": _counted(
            _with(
                s["dataset"],
                source=p.get("data_source", s["source"]),
                fingerprint=p.get("data_fingerprint"),
            )
            for _, s, p in summaries
        ),
        "methods": _counted(f"{identity(s, 'method')} ({s['intent']})" for _, s, _ in summaries),
        "protocol": _counted(str(s["protocol"]) for _, s, _ in summaries if "protocol" in s),
        "regimes": _counted(str(s.get("regime", "single")) for _, s, _ in summaries),
        "commits": _counted(commit(run) for run in runs),
        "seeds": _counted(str(s["seed"]) for _, s, _ in summaries),
        "devices": _counted(
            f"{p.get('accelerator') or p.get('device', 'unknown')}, {p.get('dtype', 'unknown')}"
            for _, _, p in summaries
        ),
        "versions": _counted(_versions(run) for run in runs),
        "finished": [" to ".join(dict.fromkeys((date(min(ended)), date(max(ended)))))]
        if ended
        else [],
        "computing time": [duration(seconds)],
        "cases that could not be edited": [str(failed)] if failed else [],
        "report written": [date(time.time())],
    }
    return [(term, values) for term, values in facts.items() if values]


def _with(name: object, **details: object) -> str:
    return ", ".join([str(name), *(f"{k} {v}" for k, v in details.items() if v)])


def _versions(run: Run) -> str:
    packages = run.provenance.get("packages", {})
    shown = [f"{name} {packages[name]}" for name in ("torch", "transformers") if packages.get(name)]
    return ", ".join([f"Python {run.provenance.get('python', 'unknown')}", *shown])


def _counted(values: Iterable[str]) -> list[str]:
    """Every value once, with the number of runs where there is more than one value."""
    counts = Counter(values)
    if len(counts) == 1:
        return list(counts)
    return [f"{value}: {n} run{'s' if n > 1 else ''}" for value, n in counts.items()]


def _relative(path: Path, folders: Sequence[Path]) -> str:
    inside = (folder for folder in folders if path.is_relative_to(folder))
    folder = next(inside, None)
    return path.name if folder is None else str(path.relative_to(folder))
