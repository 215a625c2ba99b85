"""How neurons act on the answer: directly, through later MLPs, through later attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import torch

from kn_sweeps.attribution.contrast import encoder
from kn_sweeps.attribution.freezing import Frozen
from kn_sweeps.attribution.integrand import Measure as Attributed
from kn_sweeps.attribution.integrated_gradients import Attribution, integrated_gradients
from kn_sweeps.cases import Case, edit_probe
from kn_sweeps.measurements.base import Finding, Measure, batches
from kn_sweeps.measurements.faithfulness import agreement
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.plans import Plan
from kn_sweeps.row import Row


@dataclass(frozen=True)
class Paths:
    """How much of the neurons' attributions goes which way to the answer, layer by layer.

    Three certified integrated gradients on the same neurons: the model's own (`whole`), with all
    attention frozen, and with the MLPs of other layers frozen too. The last is `direct`, what the
    second has beyond it goes through later `mlps`, and the rest through later `attention`, alone
    or with MLPs. So direct + mlps + attention = whole for every neuron.

    A record a case, layer and set of neurons (`best`, the `top` best of all layers by their whole
    attribution, as many of them as the layer has; `all`): `count`, how many neurons they are, and
    the sums over them, in the measure's unit; `certified`, whether the layer's three attributions
    are. The same for all records of a case: `value`, its measure; `correlation`, Spearman's of
    direct and whole attributions of all neurons; and `overlap`, the share of the best neurons that
    are among as many best by their direct ones.

    Attributes:
        measure: What is attributed, as in `KnowledgeNeurons`.
        top: How many neurons are the best.
        known: Only cases whose answer the unedited model gives.
        max_rows: Rows in one pass; bounds memory.
    """

    measure: Attributed = "probability"
    top: int = 10
    known: bool = True
    max_rows: int = 512

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.measure not in get_args(Attributed):
            choices = ", ".join(get_args(Attributed))
            raise ValueError(f"measure {self.measure!r}; choose from {choices}")
        for name in ("top", "max_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def begin(self, lm: LanguageModel, cases: Sequence[Case], seed: int) -> Measure:
        """Nothing depends on all cases."""
        del cases, seed

        def measure(cases: Sequence[Case], _plan: Plan, rows: Sequence[Row]) -> list[Finding]:
            return [
                finding
                for part in batches(cases, rows, only_known=self.known)
                for finding in self._findings(lm, part)
            ]

        return measure

    def _findings(self, lm: LanguageModel, cases: Sequence[Case]) -> Iterator[Finding]:
        edits = [edit_probe(case) for case in cases]
        encode = encoder(lm, self.measure)
        prompts = [encode(edit.query, edit.old, edit.new) for edit in edits]

        def attributed(frozen: Frozen) -> list[Attribution]:
            rows = lm.fitting(self.max_rows)
            return integrated_gradients(
                lm, prompts, measure=self.measure, frozen=frozen, max_rows=rows
            )

        found = [attributed(frozen) for frozen in get_args(Frozen)]
        for case, *each in zip(cases, *found, strict=True):
            yield from self._of(case, *each)

    def _of(
        self, case: Case, whole: Attribution, unattended: Attribution, direct: Attribution
    ) -> Iterator[Finding]:
        full, without, straight = (one.scores.double() for one in (whole, unattended, direct))
        paths = {"direct": straight, "mlps": without - straight, "attention": full - without}
        flat = full.flatten()
        top = min(self.top, len(flat))
        best = torch.zeros_like(flat, dtype=torch.bool)
        best[flat.argsort(descending=True, stable=True)[:top]] = True
        (_, correlation), (_, overlap) = agreement(
            torch.stack([full, straight]).flatten(1), self.top
        )
        certified = whole.certified & unattended.certified & direct.certified
        chosen = {"best": best.view(full.shape), "all": torch.ones_like(full, dtype=torch.bool)}
        for name, some in chosen.items():
            for layer, neurons in enumerate(some):
                yield {
                    "case": case.id,
                    "source": case.source,
                    "task": case.task,
                    "neurons": name,
                    "layer": layer,
                    "count": int(neurons.sum()),
                    **{path: float(one[layer, neurons].sum()) for path, one in paths.items()},
                    "whole": float(full[layer, neurons].sum()),
                    "certified": bool(certified[layer]),
                    "value": whole.value,
                    "correlation": correlation,
                    "overlap": overlap,
                }
