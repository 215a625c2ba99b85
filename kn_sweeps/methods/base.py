"""What a method is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from kn_sweeps.cases import Case, Intent, Probe

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from kn_sweeps.attribution.integrated_gradients import Attribution
    from kn_sweeps.edits import Edit, Neuron
    from kn_sweeps.models.language_model import LanguageModel


@dataclass(frozen=True)
class Certificate:
    """How accurate one prompt's attributions are, layer by layer; see `Attribution`.

    Attributes:
        residual: Completeness residual, in probability (or nats).
        error: Estimated relative error of the scores.
        nodes: Points evaluated.
        certified: Whether both are within the tolerance.
        rounded: Whether they are not for rounding alone.
    """

    residual: tuple[float, ...]
    error: tuple[float, ...]
    nodes: tuple[int, ...]
    certified: tuple[bool, ...]
    rounded: tuple[bool, ...]

    @classmethod
    def of(cls, attribution: Attribution) -> Certificate:
        """An attribution's."""
        return cls(
            *(tuple(getattr(attribution, field.name).tolist()) for field in fields(cls)),
        )


@dataclass(frozen=True)
class Located:
    """Neurons found for one edit.

    Attributes:
        edit: The edit's id.
        source: The relation or paradigm.
        cases: Ids of the cases it covers.
        neurons: The refined set, best first.
        tau: Share of prompts a neuron had to be shared by.
        in_range: Whether tau alone brought their number into the wanted range.
        certificates: One for each prompt that located it.
    """

    edit: str
    source: str
    cases: tuple[str, ...]
    neurons: tuple[Neuron, ...]
    tau: float
    in_range: bool
    certificates: tuple[Certificate, ...]


@dataclass(frozen=True)
class Plan:
    """The edits for some cases.

    Attributes:
        edits: Edit id to edit.
        edit_of: Case id to edit id.
        located: What was located on the way, an edit.
        attributions: Source to one row of neuron scores a located prompt.
        failed: Case id to why its edit could not be planned.
        contexts: Texts that were put before prompts.
    """

    edits: Mapping[str, Edit]
    edit_of: Mapping[str, str]
    located: tuple[Located, ...] = ()
    attributions: Mapping[str, Float[torch.Tensor, "prompts neurons"]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    contexts: tuple[str, ...] = ()


NOTHING = Plan({}, {})
"""No edit at all."""


@runtime_checkable
class Method(Protocol):
    """A way to plan edits.

    A method is a frozen dataclass whose fields are its hyper-parameters; its module and its YAML
    share a name.
    """

    @property
    def intent(self) -> Intent:
        """What its edits are for: `replace` old by new, or `erase` old."""

    @property
    def changes(self) -> bool:
        """Whether it changes anything: `none` does not and takes any case."""

    def group(self, case: Case) -> str:
        """The id of the edit that covers `case`; equal for cases that share one."""

    def prepare(self, lm: LanguageModel, seed: int) -> None:
        """Do what depends on the unedited model and on no case: contexts, statistics.

        `plan` does it where it has not been done; a model that is edited by then needs it before.
        """

    def plan(
        self, lm: LanguageModel, cases: Sequence[Case], seed: int, *, together: bool = False
    ) -> Plan:
        """Plan the edits of `cases`. Cases of one group must come together.

        Args:
            lm: The model; left unchanged. It may be in the scope of earlier edits.
            cases: What to change.
            seed: All randomness comes from it and from what it is drawn for.
            together: Whether the edits will be in effect at once, for a method that can take
                that into account.

        Returns:
            The edits; what cannot be planned for one case is in `failed`.

        Raises:
            ValueError: If nothing can be planned, because a layer does not exist, say.
        """


def edit_probe(case: Case) -> Probe:
    """The case's intended change.

    Raises:
        ValueError: If it has none, because the model cannot be asked for its critical word.
    """
    if case.edit is None:
        raise ValueError(
            f"case {case.id} cannot be edited on this kind of model; use method=none to score it"
        )
    return case.edit
