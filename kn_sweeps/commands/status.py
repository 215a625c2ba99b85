"""How a sweep is doing.

    kn-sweeps status SWEEP            each run's state and the counts; --watch repeats it
    kn-sweeps status cancel SWEEP     stop what waits or runs; what is there stays
    kn-sweeps status retry SWEEP      launch what is not finished, as it was launched
    kn-sweeps status logs SWEEP RUN   where a run logs, and the ends of its logs
    kn-sweeps status forget SWEEP     forget the failed runs, such as those of typos

SWEEP is its folder, results/NAME, or the name alone; of show, cancel and retry also several.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kn_sweeps.progress.interruption import STOPPED, Interrupted, listening
from kn_sweeps.progress.pace import pace
from kn_sweeps.records.files import about_files, holder
from kn_sweeps.records.folders import find_folders, sweeps_in
from kn_sweeps.records.run_directory import RunDirectory, runs_in
from kn_sweeps.records.status import FAILED
from kn_sweeps.sweeps import slurm
from kn_sweeps.sweeps.record import Launch, forget_runs, launches, place_of, planning
from kn_sweeps.sweeps.states import (
    DONE,
    LOST,
    RUNNING,
    STATES,
    WAITING,
    RunState,
    every_run,
    outlook,
    rate,
    states,
)

COMMANDS = ("show", "cancel", "retry", "logs", "forget")
_COLOURS = {
    RUNNING: "cyan",
    DONE: "green",
    FAILED: "bold red",
    LOST: "bold red",
    STOPPED: "yellow",
    "timed out": "yellow",
    "preempted": "yellow",
}
_EVERY_S = 5.0
_TAIL, _TAIL_BYTES, _SHOWN_CHARACTERS = 40, 4000, 200


def _sweeps(names: Sequence[str]) -> list[Path]:
    """The sweeps that are meant; of a folder of sweeps all of them."""
    found: list[Path] = []
    for folder in find_folders(names):
        inside = [] if launches(folder) or runs_in(folder) else sweeps_in(folder)
        found += [folder / name for name in inside] or [folder]
    return found


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
    for path in _task_logs(one, ".err"):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
        if told := [line.strip() for line in lines if line.strip()]:
            return told[-1][:_SHOWN_CHARACTERS]
    return ""


def _task_logs(one: RunState, suffix: str) -> list[Path]:
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


def cancel(sweep: Path) -> int:
    """Stop everything of a sweep that waits or runs.

    Returns:
        How many jobs or processes were told.

    Raises:
        ValueError: If some of it runs on another machine.
    """
    known = launches(sweep)
    clusters = {one.id: one.user for one in known if one.kind == "slurm"}
    queued = slurm.queue(clusters.values()) if clusters else []
    jobs = [item.job for item in queued if (place_of(item.name) or ("",))[0] in clusters]
    slurm.cancel(jobs)
    told = len(jobs)
    for launch in known:
        for process, host in _processes(launch) if launch.kind != "slurm" else ():
            if host != socket.gethostname():
                raise ValueError(f"launch {launch.id} runs on {host}: cancel it there")
            with suppress(ProcessLookupError):  # it ended just now
                os.kill(process, signal.SIGTERM)
                told += 1
    return told


def _processes(launch: Launch) -> list[tuple[int, str]]:
    """What sees to a launch here, each with its host.

    That is the launching process, which tells those that it started, or, where it was killed, those
    themselves.
    """
    if (first := launch.at_work_in()) is not None:
        return [first]
    found = (holder(launch.task_lock(task)) for task in range(len(launch.tasks)))
    return [one for one in found if one is not None]


def retry(sweep: Path, *, trust_writers: bool = False) -> None:
    """Launch again what is not finished, with the frozen configs."""
    from kn_sweeps.sweeps.launch import again

    found = every_run(sweep).values()
    unfinished = [one for one in found if one.unfinished]
    if not unfinished:
        waiting = sum(one.state in (WAITING, RUNNING) for one in found)
        print(f"nothing to retry: {waiting} runs wait or run, the others are done")
        return
    again(unfinished, trust_writers=trust_writers)


def forget(sweep: Path) -> int:
    """Forget the failed runs: they are shown and retried no more, unless launched again.

    Rows that one has stay, for a launch to go on from.

    Returns:
        How many there were.
    """
    with planning(sweep):
        found = states(sweep, launches(sweep)).items()
        failed = [run for run, one in found if one.state == FAILED]
        forget_runs(sweep, failed)
        for run in failed:
            directory = RunDirectory(sweep / run)
            if not (directory.busy() or directory.chunks.get(0) is not None or directory.done()):
                shutil.rmtree(directory.path, ignore_errors=True)
    return len(failed)


def logs(sweep: Path, name: str) -> None:
    """Print where a run logs and the end of each log.

    Raises:
        ValueError: If no run, or more than one, starts with this name.
    """
    found = every_run(sweep)
    matching = [one for one in found.values() if one.run.id.startswith(name)]
    if len(matching) != 1:
        ids = ", ".join(one.run.id for one in (matching or found.values()))
        raise ValueError(f"{len(matching)} runs start with {name!r}; there are {ids}")
    (one,) = matching
    files = [RunDirectory(sweep / one.run.id).log_path]
    files += [path for suffix in (".out", ".err") for path in _task_logs(one, suffix)]
    for path in files:
        print(f"== {path}")
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            print("\n".join(lines[-_TAIL:]))


def _show(sweeps: Sequence[Path], watch: bool) -> None:
    console = Console()

    def now(limit: int | None = None) -> Group:
        each = limit if limit is None else limit // len(sweeps)
        parts = [shown(one, list(every_run(one).values()), each) for one in sweeps]
        return Group(*(part for one in parts for part in (one, Text()))) if parts[1:] else parts[0]

    if not watch:
        console.print(now())
        return
    with Live(now(console.height - 12), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(_EVERY_S)
            try:
                live.update(now(console.height - 12), refresh=True)
            except ValueError as error:  # a queue that does not answer for a moment
                live.update(Text(f"error: {error}", style="red"), refresh=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kn-sweeps status",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        one = commands.add_parser(name)
        many = None if name == "logs" else "+"
        one.add_argument("sweep", nargs=many, help="results/NAME or NAME")
        if name == "show":
            one.add_argument("--watch", action="store_true", help=f"again every {_EVERY_S:.0f} s")
        if name == "retry":
            more = "though others may write to the results folder, and run code as you"
            one.add_argument("--trust-writers", action="store_true", help=more)
        if name == "logs":
            one.add_argument("run", help="a run's id, or how it starts")
    given = list(sys.argv[1:] if arguments is None else arguments)
    plain = bool(given) and given[0] not in (*COMMANDS, "-h", "--help")
    return parser.parse_args(["show", *given] if plain else given)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Returns:
        0, or 1 after an error, which is printed.
    """
    chosen = _parse(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("kn_sweeps").setLevel(logging.INFO)
    try:
        sweeps = _sweeps([chosen.sweep] if chosen.command == "logs" else chosen.sweep)
        if chosen.command == "show":
            _show(sweeps, chosen.watch)
            return 0
        for sweep in sweeps:
            if chosen.command == "cancel":
                print(f"told to stop: {cancel(sweep)}")
            elif chosen.command == "retry":
                with listening():
                    retry(sweep, trust_writers=chosen.trust_writers)
            elif chosen.command == "forget":
                print(f"failed runs forgotten: {forget(sweep)}")
            else:
                logs(sweep, chosen.run)
    except (KeyboardInterrupt, Interrupted):
        return 130
    except OSError as error:
        print(f"error: {about_files(error)}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
