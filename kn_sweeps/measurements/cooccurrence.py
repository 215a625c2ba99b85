"""What edited neurons add to a case's answer, and how often text has it beside its trigger."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from kn_sweeps.attribution.attributor import Attributor
from kn_sweeps.cases import Case, edit_probe
from kn_sweeps.data.cooccurrence import count_following, is_word
from kn_sweeps.data.texts import fetch_texts, texts_of
from kn_sweeps.edits import NeuronScale
from kn_sweeps.measurements.base import Finding, Measure
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.plans import Plan
from kn_sweeps.row import Row

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CoOccurrence:
    """Attribution of the neurons an edit scales, and the co-occurrence of answer and trigger.

    A record a case: the `first` and `second` of its answer and its trigger, as they stand in the
    sentence; `count`, how often they follow one another in the text; `attribution`, what the scaled
    neurons add to the answer's probability at the case's own prompt (the sum of their integrated
    gradients; NaN where the edit scales none); `probability`, that of the answer.

    Attributes:
        texts: `bundled`; a text file, or a folder of `.txt` files, with one text a line; or a hub
            dataset, `NAME` or `NAME:CONFIG`.
        samples: Texts read; null for all.
        window: How many words behind the first the second may stand; 1 for side by side.
    """

    texts: str = "bundled"
    samples: int | None = None
    window: int = 2

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        if self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples must be at least 1, or null for all; got {self.samples}")

    def fetch(self) -> None:
        """Have the texts on this machine.

        Raises:
            ValueError: If they cannot be had.
        """
        fetch_texts(self.texts, self.samples)

    def begin(self, lm: LanguageModel, cases: Sequence[Case], seed: int) -> Measure:
        """Read the text once, counting the answers and triggers of all cases."""
        del seed  # nothing is drawn
        pairs = [pair for case in cases if (pair := _pair(case)) is not None]
        if not pairs:
            raise ValueError(
                "co-occurrence is that of an answer and its subject of one word each; no case has "
                "both"
            )
        if len(pairs) < len(cases):
            log.info("co-occurrence: %d cases have no such pair", len(cases) - len(pairs))
        texts = texts_of(self.texts, self.samples)
        first, second = ({pair[n] for pair in pairs} for n in (0, 1))
        counts = count_following(texts, first, second, self.window)
        seen = sum(counts[pair] > 0 for pair in set(pairs))
        log.info(
            "co-occurrence in %s: %d of %d pairs seen, %d times in all",
            self.texts,
            seen,
            len(set(pairs)),
            sum(counts[pair] for pair in set(pairs)),
        )
        attributor = Attributor()

        def measure(cases: Sequence[Case], plan: Plan, _rows: Sequence[Row]) -> list[Finding]:
            own = {
                case: pair
                for case in cases
                if case.id not in plan.failed and (pair := _pair(case)) is not None
            }
            probes = [edit_probe(case) for case in own]
            prompts = [lm.encode(probe.query, probe.old) for probe in probes]
            found = attributor(lm, prompts)
            findings: list[Finding] = []
            for (case, pair), one in zip(own.items(), found, strict=True):
                edit = plan.edits[plan.edit_of[case.id]]
                neurons = edit.neurons if isinstance(edit, NeuronScale) else ()
                findings.append(
                    {
                        "case": case.id,
                        "source": case.source,
                        "first": pair[0],
                        "second": pair[1],
                        "count": counts[pair],
                        "attribution": float(sum(one.scores[at] for at in neurons))
                        if neurons
                        else float("nan"),
                        "probability": one.value,
                    }
                )
            return findings

        return measure


def _pair(case: Case) -> tuple[str, str] | None:
    """Answer and subject in the order of the text, in lower case; None unless each is one word."""
    probe = case.edit
    if probe is None or not (is_word(probe.old) and is_word(probe.query.subject_text)):
        return None
    answer, subject = probe.old.lower(), probe.query.subject_text.lower()
    span = probe.query.subject
    behind = span is not None and span[0] >= len(probe.query.prefix)
    return (answer, subject) if behind else (subject, answer)
