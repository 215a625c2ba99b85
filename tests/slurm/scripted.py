"""A method that misbehaves as told, once, and notes every step that it finished."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kn_sweeps.cases import Case
from kn_sweeps.edits import State
from kn_sweeps.methods.none import NoEdit
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.plans import Plan
from kn_sweeps.progress.interruption import check


@dataclass(frozen=True)
class Scripted(NoEdit):
    """`none` with a fault.

    Attributes:
        how: quick, raise, exit, kill, slow or endless.
        folder: Where it notes what it did.
        seconds: What a slow step takes.
    """

    how: str = "quick"
    folder: str = "."
    seconds: float = 3.0

    def plan(
        self,
        lm: LanguageModel,
        cases: Sequence[Case],
        seed: int = 0,
        *,
        together: bool = False,
        state: State | None = None,
    ) -> Plan:
        """Misbehave, or plan nothing."""
        if self.how in ("slow", "endless"):
            for _ in range(int(10 * (self.seconds if self.how == "slow" else 300))):
                check()
                time.sleep(0.1)
        elif self._first(seed):
            if self.how == "raise":
                raise RuntimeError("as told")
            if self.how == "exit":
                sys.exit(3)
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        plan = super().plan(lm, cases, seed, together=together, state=state)
        with (Path(self.folder) / "steps").open("a") as notes:
            notes.write(f"{self.how} {seed} {cases[0].id}\n")
        return plan

    def _first(self, seed: int) -> bool:
        try:
            (Path(self.folder) / f"{self.how}-{seed}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True
