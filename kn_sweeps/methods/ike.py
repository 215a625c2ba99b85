"""In-context editing (Zheng et al. 2023): tell the model the new fact before every question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from kn_sweeps.cases import Case, Probe, edit_probe
from kn_sweeps.edits import Edit, InContext, State
from kn_sweeps.methods.base import Method
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.memory import Needs, Shape, Work
from kn_sweeps.plans import Plan

_FACT = "{fact}"
_LETTERS = 4
"""Of a token, about."""


@dataclass(frozen=True)
class InContextEditing(Method):
    """Put the fact, as a sentence with its new answer, before everything that is asked.

        demonstrations, fact_1, ..., fact_n, question        of n edits in effect at once

    No weight changes. A case with a probe that is too long behind its text fails.

    Attributes:
        template: How a fact is told; it has `{fact}` once, the edit's prompt with its new answer.
        demonstrations: Texts before all facts, each as it stands; they stand there once, however
            many facts are told.
        question: What stands between the facts and what is asked.

    Source: "Imagine that FACT" before the question is the in-context baseline of Cohen et al.
    (2024), *Evaluating the Ripple Effects of Knowledge Editing*. Zheng et al. (2023), *Can We Edit
    Factual Knowledge by In-Context Learning?*, tell it as "New Fact: FACT" and ask it as
    "Prompt: QUESTION", behind 32 demonstrations. Deviation: they choose demonstrations for every
    fact from a training set; here those are taken that are given, by default none.
    """

    template: str = "Imagine that {fact}. "
    demonstrations: tuple[str, ...] = ()
    question: str = ""

    def __post_init__(self) -> None:
        """Refuse a template without a place for the fact."""
        if self.template.count(_FACT) != 1:
            raise ValueError(
                f"template must have {_FACT} once, where the fact goes; got {self.template!r}"
            )

    @override
    def needs(self, shape: Shape, work: Work) -> Needs:
        """Scoring, of prompts with a fact of their own length before them; nothing is planned."""
        demonstrations = len("".join(self.demonstrations)) // _LETTERS
        tokens = 2 * work.tokens + demonstrations
        return Needs(activations=shape.scoring(work.batch_size, tokens))

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
        """A text for every case; nothing is computed."""
        edits: dict[str, Edit] = {}
        failed: dict[str, str] = {}
        before = "".join(self.demonstrations)
        for case in cases:
            try:
                told = self.template.replace(_FACT, fact_of(edit_probe(case)))
            except ValueError as error:
                failed[case.id] = str(error)
            else:
                edits[case.id] = InContext(told, before, self.question)
        return Plan(edits, {case: case for case in edits}, failed=failed)


def fact_of(probe: Probe) -> str:
    """A probe's text with the new answer in its slot, without blanks and full stops at its ends."""
    text = probe.query.prefix + probe.new + probe.query.suffix
    return text.strip().rstrip(" .")
