"""What a method is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from kn_sweeps.cases import Case, Intent
from kn_sweeps.models.memory import Needs, Shape, Work
from kn_sweeps.plans import Plan

if TYPE_CHECKING:
    from kn_sweeps.edits import State
    from kn_sweeps.models.language_model import LanguageModel


class Method(ABC):
    """A way to plan edits.

    A method is a frozen dataclass whose fields are its hyper-parameters; its module and its YAML
    share a name. All but `plan` has a default: one edit a case that replaces old by new.
    """

    @classmethod
    def for_model(cls, lm: LanguageModel, **settings: Any) -> Self:
        """The method as a run has it for a model: with the values of `conf`, the tuned ones first.

        Args:
            lm: The model. Where nothing is tuned for it, a warning says what is taken.
            **settings: Values to take instead, by the method's fields.

        Raises:
            ValueError: If a value does not exist or fit; with the choices.
        """
        from kn_sweeps.notebook.presets import method_for

        return method_for(cls, lm, settings)

    @property
    def intent(self) -> Intent:
        """What its edits are for: `replace` old by new, or `erase` old."""
        return "replace"

    @property
    def changes(self) -> bool:
        """Whether it changes anything: `none` does not and takes any case."""
        return True

    def group(self, case: Case) -> str:
        """The id of the edit that covers `case`; equal for cases that share one."""
        return case.id

    def prepare(self, lm: LanguageModel, seed: int) -> None:
        """Do what depends on the unedited model and on no case: contexts, statistics.

        `plan` does it where it has not been done; a model that is edited by then needs it before.
        """
        del lm, seed  # most methods have nothing to prepare

    def carried(self, state: State, left: State) -> State:
        """The state behind one more plan of a sequence: what it left takes the place of its names.

        Args:
            state: That behind the plans before it; left unchanged.
            left: What it left: one of its `Plan.state`.
        """
        return {**state, **left}

    def needs(self, shape: Shape, work: Work) -> Needs:
        """What it needs of memory beside the model; see `kn-sweeps memory`.

        Raises:
            ValueError: If nobody has said how to count that.
        """
        del shape, work
        raise ValueError(f"what {type(self).__name__} needs is not counted")

    @abstractmethod
    def plan(
        self,
        lm: LanguageModel,
        cases: Sequence[Case],
        seed: int = 0,
        *,
        together: bool = False,
        state: State | None = None,
    ) -> Plan:
        """Plan the edits of `cases`. Cases of one group must come together.

        Args:
            lm: The model; left unchanged. It may be in the scope of earlier edits.
            cases: What to change.
            seed: All randomness comes from it and from what it is drawn for.
            together: Whether the edits will be in effect at once, for a method that can take
                that into account.
            state: What earlier plans of a sequence left (`carried`), for a method that takes that
                into account; nothing where a sequence begins, None where there is none.

        Returns:
            The edits, and in a sequence what it leaves to later plans; what cannot be planned for
            one case is in `failed`.

        Raises:
            ValueError: If nothing can be planned, because a layer does not exist, say.
        """
