"""When how many cases of a run were done: `progress.jsonl` in its directory, a line a step.

`status.json` says how far a run is; this says how it got there, so that a dashboard which is
brought up to date later shows the same as one that watched.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kn_sweeps.records.run_directory import HISTORY


@dataclass(frozen=True)
class Step:
    """How far a run was.

    Attributes:
        done: Finished cases.
        total: Cases of the run.
        at: When, in seconds since 1970.
    """

    done: int
    total: int
    at: float


def note_step(directory: Path, done: int, total: int) -> None:
    """Add a step; where that cannot be written, the run goes on without."""
    line = json.dumps(asdict(Step(done, total, time.time())))
    with suppress(OSError), (directory / HISTORY).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read_history(directory: Path) -> tuple[Step, ...]:
    """The steps of a run with ascending `done`.

    A run that goes on after a kill, or is run again, says again what it has: steps behind that do
    not count, and a step is of the time when it was first told, as dashboards have it by then. A
    line that a kill cut off does not count.
    """
    path = directory / HISTORY
    steps: list[Step] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            step = Step(**json.loads(line))
        except (ValueError, TypeError):
            continue
        while steps and steps[-1].done > step.done:
            steps.pop()
        if not steps or steps[-1].done < step.done:
            steps.append(step)
    return tuple(steps)
