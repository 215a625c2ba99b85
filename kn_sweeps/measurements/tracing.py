"""Causal tracing of every case's own prompt, by the role its tokens play."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from kn_sweeps.attribution.causal_tracing import Trace, subject_spread, trace
from kn_sweeps.cases import (
    AFTER,
    BEFORE,
    COMPONENTS,
    FIRST,
    LAST,
    LAST_READ,
    MIDDLE,
    READ,
    ROLES,
    Case,
    Component,
    LMKind,
)
from kn_sweeps.measurements.base import Finding, Measure, known
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import Encoded
from kn_sweeps.plans import Plan
from kn_sweeps.progress.counting import counted
from kn_sweeps.row import Row

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tracing:
    """What restoring a state adds to the answer's probability, under a corrupted subject.

    A record a case, component, role and layer: `effect`, the mean over the role's tokens of the
    indirect effect; `tokens`, how many they are; and the case's `clean` and `corrupted`
    probability, so that clean - corrupted is its total effect.

    Attributes:
        noise: Standard deviation of the noise, in those of the embeddings of all cases' subjects.
        samples: Draws of the noise.
        window: Layers restored together for MLP and attention.
        components: What is restored: `state`, `mlp`, `attention`.
        known: Only cases whose answer the unedited model gives; of another answer nothing is there
            to be restored.
        max_rows: Rows in one pass; bounds memory.

    Source: Meng et al. (2022), section 2.
    """

    noise: float = 3.0
    samples: int = 10
    window: int = 10
    components: tuple[Component, ...] = COMPONENTS
    known: bool = True
    max_rows: int = 512

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        if not self.noise >= 0:
            raise ValueError(f"noise must be 0 or more, got {self.noise}")
        for name in ("samples", "window", "max_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.components:
            raise ValueError(f"no component chosen; choose from {', '.join(get_args(Component))}")

    def begin(self, lm: LanguageModel, cases: Sequence[Case], seed: int) -> Measure:
        """Take the noise from all cases' subjects."""
        prompts = [prompt for case in cases if (prompt := _prompt(lm, case)) is not None]
        if not prompts:
            raise ValueError(
                "causal tracing corrupts the subject, and no case has one that this model reads "
                "before its answer"
            )
        noise = self.noise * subject_spread(lm, prompts)
        log.info("causal tracing: noise of standard deviation %.4g", noise)

        def measure(cases: Sequence[Case], _plan: Plan, rows: Sequence[Row]) -> list[Finding]:
            wanted = known(rows) if self.known else {case.id for case in cases}
            findings: list[Finding] = []
            for case in counted(cases, "traced case"):
                prompt = _prompt(lm, case)
                if case.id in wanted and prompt is not None:
                    found = trace(
                        lm,
                        prompt,
                        noise=noise,
                        seed=seed,
                        samples=self.samples,
                        components=self.components,
                        window=self.window,
                        max_rows=self.max_rows,
                    )
                    findings += _findings(case, found, roles(prompt, lm.kind))
            return findings

        return measure


def roles(prompt: Encoded, kind: LMKind) -> list[str]:
    """The role of every position of a prompt that has a subject.

    A causal LM reads its answer off the last token, a masked one off the masks in its place. Where
    a subject ends the prompt its last token is both, and restoring its upper layers restores the
    answer whatever they hold: a role of its own.
    """
    assert prompt.subject is not None
    (start, stop), (slot, end) = prompt.subject, prompt.target
    causal = kind == "causal"
    found = [BEFORE] * start + [AFTER] * ((slot if causal else len(prompt.ids)) - start)
    for at in range(slot - 1, slot) if causal else range(slot, end):
        found[at] = READ
    found[start:stop] = [FIRST] + [MIDDLE] * (stop - start - 1)
    found[stop - 1] = LAST_READ if causal and stop == slot else LAST
    return found


def _prompt(lm: LanguageModel, case: Case) -> Encoded | None:
    if case.edit is None:
        return None
    prompt = lm.encode(case.edit.query, case.edit.old)
    return None if prompt.subject is None else prompt


def _findings(case: Case, found: Trace, at: Sequence[str]) -> Iterator[Finding]:
    tokens = Counter(at)
    for component, effects in found.effects.items():
        for role in ROLES:
            places = [n for n, one in enumerate(at) if one == role]
            # Before a causal LM's subject nothing is corrupted, and nothing was restored.
            if not places or (role == BEFORE and not effects[places].any()):
                continue
            for layer, effect in enumerate(effects[places].mean(0).tolist()):
                yield {
                    "case": case.id,
                    "source": case.source,
                    "task": case.task,
                    "component": component,
                    "role": role,
                    "layer": layer,
                    "effect": effect,
                    "tokens": tokens[role],
                    "clean": found.clean,
                    "corrupted": found.corrupted,
                }
