"""What a method gives back: edits, which of them covers which case, and how they were found.

Plain frozen values, as `cases`: keeping and reading them takes no model library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kn_sweeps.cases import Intent
from kn_sweeps.showing.sheets import Sheet, Shown

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from kn_sweeps.edits import Edit, Neuron, State


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


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """The edits for some cases.

    Attributes:
        edits: Edit id to edit.
        edit_of: Case id to edit id.
        located: What was located on the way, an edit.
        attributions: Source to one row of neuron scores a located prompt.
        failed: Case id to why its edit could not be planned.
        contexts: Texts that were put before prompts.
        intent: What the edits are for.
        effects: Edit id to what is in effect when its cases are scored, where that is more than
            the edit: its batch, those before it, those that go together with it.
        state: What it leaves to later plans of its sequence, in this order; see `Method.carried`.
    """

    edits: Mapping[str, Edit]
    edit_of: Mapping[str, str]
    located: tuple[Located, ...] = ()
    attributions: Mapping[str, Float[torch.Tensor, "prompts neurons"]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    contexts: tuple[str, ...] = ()
    intent: Intent = "replace"
    effects: Mapping[str, Edit] = field(default_factory=dict)
    state: tuple[State, ...] = ()

    def effect_on(self, case: str) -> Edit:
        """What is in effect when a case is scored."""
        name = self.edit_of[case]
        return self.effects.get(name, self.edits[name])

    def joint(self) -> Edit:
        """All its edits at once.

        Raises:
            ValueError: If there is none for one of its cases.
        """
        from kn_sweeps.edits import joined

        for message in self.failed.values():
            raise ValueError(f"there is no edit: {message}")
        return joined(self.edits.values())

    def sheet(self) -> Sheet:
        """A line for each layer that an edit changes, and what could not be planned."""
        from kn_sweeps.edits import changes

        lines = [
            (name if not n else "", *change)
            for name, edit in self.edits.items()
            for n, change in enumerate(changes(edit) or [("", "nothing", "")])
        ]
        found = [
            f"located {len(one.neurons)} neurons from {len(one.certificates)} prompts"
            + ("" if all(all(c.certified) for c in one.certificates) else ", not all certified")
            for one in self.located
        ]
        failed = [f"no edit of {case}: {why}" for case, why in self.failed.items()]
        title = f"{len(self.edits)} edit{'s' * (len(self.edits) != 1)} to {self.intent}"
        return Sheet(title, lines, ("edit", "layer", "change", "norm"), [*found, *failed])


NOTHING = Plan({}, {})
"""No edit at all."""
