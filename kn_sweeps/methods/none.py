"""The control that changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kn_sweeps.cases import Case, Intent
from kn_sweeps.edits import NeuronScale
from kn_sweeps.methods.base import Plan
from kn_sweeps.models.language_model import LanguageModel


@dataclass(frozen=True)
class NoEdit:
    """Leave the model as it is. Its numbers are what every other method's start from."""

    intent: ClassVar[Intent] = "replace"
    changes: ClassVar[bool] = False

    def group(self, case: Case) -> str:
        """One edit a case."""
        return case.id

    def prepare(self, lm: LanguageModel, seed: int) -> None:
        """Nothing."""

    def plan(
        self,
        lm: LanguageModel,  # noqa: ARG002
        cases: Sequence[Case],
        seed: int,  # noqa: ARG002
        *,
        together: bool = False,  # noqa: ARG002
    ) -> Plan:
        """The identity for every case."""
        return Plan(
            {case.id: NeuronScale((), 1.0) for case in cases}, {case.id: case.id for case in cases}
        )
