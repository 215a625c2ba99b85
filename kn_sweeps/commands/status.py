"""How a sweep is doing.

    kn-sweeps status SWEEP            each run's state and the counts; --watch repeats it
    kn-sweeps status cancel SWEEP     stop what waits or runs; what is there stays
    kn-sweeps status retry SWEEP      launch what is not finished, as it was launched
    kn-sweeps status logs SWEEP RUN   where a run logs, and the ends of its logs
    kn-sweeps status forget SWEEP     forget the failed runs, such as those of typos

SWEEP is its folder, results/NAME, or the name alone; of show, cancel and retry also several.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from kn_sweeps.commands.console import Parser, command, say
from kn_sweeps.commands.overview import shown, task_logs
from kn_sweeps.progress.interruption import listening
from kn_sweeps.records.files import holder
from kn_sweeps.records.folders import find_folders, sweeps_in
from kn_sweeps.records.run_directory import RunDirectory, runs_in
from kn_sweeps.records.status import FAILED
from kn_sweeps.sweeps import slurm
from kn_sweeps.sweeps.record import Launch, forget_runs, launches, place_of, planning
from kn_sweeps.sweeps.states import RUNNING, WAITING, every_run, states

COMMANDS = ("show", "cancel", "retry", "logs", "forget")
_EVERY_S = 5.0
_TAIL = 40


def _sweeps(names: Sequence[str]) -> list[Path]:
    """The sweeps that are meant; of a folder of sweeps all of them."""
    found: list[Path] = []
    for folder in find_folders(names):
        inside = [] if launches(folder) or runs_in(folder) else sweeps_in(folder)
        found += [folder / name for name in inside] or [folder]
    return found


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
        say(f"nothing to retry: {waiting} runs wait or run, the others are done")
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
    files += [path for suffix in (".out", ".err") for path in task_logs(one, suffix)]
    for path in files:
        say(f"== {path}")
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            say("\n".join(lines[-_TAIL:]))


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


def _parse(arguments: Sequence[str] | None) -> Namespace:
    parser = Parser.of("status", __doc__)
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


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    chosen = _parse(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("kn_sweeps").setLevel(logging.INFO)
    sweeps = _sweeps([chosen.sweep] if chosen.command == "logs" else chosen.sweep)
    if chosen.command == "show":
        _show(sweeps, chosen.watch)
        return
    for sweep in sweeps:
        if chosen.command == "cancel":
            say(f"told to stop: {cancel(sweep)}")
        elif chosen.command == "retry":
            with listening():
                retry(sweep, trust_writers=chosen.trust_writers)
        elif chosen.command == "forget":
            say(f"failed runs forgotten: {forget(sweep)}")
        else:
            logs(sweep, chosen.run)


if __name__ == "__main__":
    sys.exit(main())
