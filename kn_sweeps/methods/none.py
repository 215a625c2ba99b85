"""The control that changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from kn_sweeps.cases import Case
from kn_sweeps.edits import NeuronScale, State
from kn_sweeps.methods.base import Method
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.memory import Needs, Shape, Work
from kn_sweeps.plans import Plan


@dataclass(frozen=True)
class NoEdit(Method):
    """Leave the model as it is. Its numbers are what every other method's start from."""

    @property
    @override
    def changes(self) -> bool:
        """It leaves the model alone, so any case will do."""
        return False

    @override
    def needs(self, shape: Shape, work: Work) -> Needs:
        """Nothing."""
        del shape, work
        return Needs()

    @override
    def plan(
        self,
        lm: LanguageModel,
        cases: Sequence[Case],
        seed: int = 0,
        *,
        together: bool = False,
        state: State | None = None,
    ) -> Plan:
        """The identity for every case."""
        return Plan(
            {case.id: NeuronScale((), 1.0) for case in cases}, {case.id: case.id for case in cases}
        )
