"""What a method gives back: edits, which of them covers which case, and how they were found.

Plain frozen values, as `cases`: keeping and reading them takes no model library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from kn_sweeps.edits import Edit, Neuron


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
