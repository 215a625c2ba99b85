"""How faithful rankings of neurons are: what becomes of the answer without and with the best."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from kn_sweeps.attribution.attributor import Attributor, Kind
from kn_sweeps.attribution.contrast import encoder
from kn_sweeps.attribution.cost import Cost, cost_of
from kn_sweeps.attribution.faithfulness import curves, sizes
from kn_sweeps.attribution.fellows import compared_with
from kn_sweeps.attribution.integrand import Measure as Attributed
from kn_sweeps.attribution.integrated_gradients import Attribution
from kn_sweeps.attribution.lens import final_norm
from kn_sweeps.attribution.relevance import check_rules
from kn_sweeps.cases import Case, edit_probe
from kn_sweeps.measurements.base import Finding, Measure, batches
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import Encoded
from kn_sweeps.plans import Plan
from kn_sweeps.row import Row

log = logging.getLogger(__name__)

CURVES = ("suppressed", "kept")
"""The k best neurons are at 0; all but those are."""

_MAY_BE_REFUSED: Mapping[Kind, Callable[[LanguageModel], object]] = {
    "log_prob_increase": final_norm,
    "relp": check_rules,
}
"""What some models cannot be attributed by, and what says so."""


@dataclass(frozen=True)
class Faithfulness:
    """The old answer's probability by how many of an attribution's best neurons are at 0, or kept.

    A record a case, attribution, curve (`suppressed`: the k best neurons of all layers are at 0
    where the answer is read; `kept`: all but those are) and k (0, 1, 2, 5, 10, ..., all):
    `probability`. With it, the same for all records of a case and attribution: `neurons`, how many
    there are; `certified`, the share of layers whose attributions are; `correlation`, Spearman's
    with the scores of the first attribution, and `overlap`, the share of its `top` best neurons
    that are among that one's; and what finding them cost: `forward` and `backward`, in passes of
    the case's prompt through the whole model, and `seconds`, its share of those of its batch. What
    `qrnca` asks of all queries of a source, once, is no case's.

    Attributes:
        attributions: What ranks the neurons; the first is what others are compared with.
        measure: What is attributed, as in `KnowledgeNeurons`.
        top: How many neurons the overlap is about.
        known: Only cases whose answer the unedited model gives.
        max_rows: Rows in one pass; bounds memory.

    Source: Mueller et al. (2025), *MIB: A Mechanistic Interpretability Benchmark*, whose curves are
    about edges and replace what is taken out by what another prompt gives; here it is 0.
    """

    attributions: tuple[Kind, ...] = get_args(Kind)
    measure: Attributed = "probability"
    top: int = 10
    known: bool = True
    max_rows: int = 512

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not self.attributions or len(set(self.attributions)) < len(self.attributions):
            raise ValueError(
                f"attributions must be some of {', '.join(get_args(Kind))}, each once; got "
                f"{list(self.attributions)}"
            )
        for name in ("top", "max_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        self._attributors(0)

    def _attributors(self, seed: int) -> dict[str, Attributor]:
        return {
            kind: Attributor(kind, self.measure, max_rows=self.max_rows, seed=seed)
            for kind in self.attributions
        }

    def begin(self, lm: LanguageModel, cases: Sequence[Case], seed: int) -> Measure:
        """Leave out, with a word, what this model cannot be attributed by."""
        attributors = self._attributors(seed)
        for kind, check in _MAY_BE_REFUSED.items():
            try:
                if kind in attributors:
                    check(lm)
            except ValueError as error:
                del attributors[kind]
                log.warning("faithfulness without %s: %s", kind, error)
        if not attributors:
            raise ValueError("no attribution is left that this model can be asked for")
        alone = self._alone(lm, cases, [one.kind for one in attributors.values() if one.compares])

        def measure(cases: Sequence[Case], _plan: Plan, rows: Sequence[Row]) -> list[Finding]:
            found: list[Finding] = []
            for compared in (True, False):
                ways = {k: one for k, one in attributors.items() if compared or not one.compares}
                those = [case for case in cases if (case.id not in alone) == compared and ways]
                for part in batches(those, rows, only_known=self.known):
                    found += self._findings(lm, part, ways)
            return found

        return measure

    def _alone(self, lm: LanguageModel, cases: Sequence[Case], kinds: Sequence[Kind]) -> set[str]:
        """The cases with nothing to be compared with, said in the log."""
        alone: dict[str, str] = {}
        for case in cases:
            try:
                for kind in kinds if case.edit is not None else ():
                    self._against(lm, case, kind)
            except ValueError as error:
                alone[case.id] = str(error)
        if alone:
            log.warning(
                "faithfulness without %s for %d of %d cases, such as: %s",
                *(", ".join(kinds), len(alone), len(cases), next(iter(alone.values()))),
            )
        return set(alone)

    def _against(self, lm: LanguageModel, case: Case, kind: Kind) -> tuple[Encoded, ...]:
        """What an attribution that compares compares the case with."""
        edit = edit_probe(case)
        answers = edit.old, edit.new
        return compared_with(kind, case, edit.query, answers, encoder(lm, self.measure))

    def _findings(
        self, lm: LanguageModel, cases: Sequence[Case], attributors: dict[str, Attributor]
    ) -> Iterator[Finding]:
        edits = [edit_probe(case) for case in cases]
        prompts = [lm.encode(edit.query, edit.old) for edit in edits]
        encode = encoder(lm, self.measure)
        asked = [encode(edit.query, edit.old, edit.new) for edit in edits]
        found: dict[str, list[Attribution]] = {}
        costs: dict[str, Cost] = {}
        for kind, attributor in attributors.items():
            compares = attributor.compares
            against = [self._against(lm, case, attributor.kind) for case in cases if compares]
            attributor.prepare(lm, against)
            with cost_of(lm) as costs[kind]:
                found[kind] = attributor.computed(lm, asked, against)
        scores = torch.stack([torch.stack([one.scores for one in each]) for each in found.values()])
        ks = sizes(scores[0, 0].numel())
        values = curves(lm, prompts, scores, ks, max_rows=self.max_rows)
        tokens = sum(len(row.ids) for prompt in asked for row in lm.rows(prompt))
        for n, case in enumerate(cases):
            agreed = zip(*agreement(scores[:, n].flatten(1), self.top), strict=True)
            for r, (kind, (correlation, overlap)) in enumerate(zip(found, agreed, strict=True)):
                cost = costs[kind]
                about = {
                    "case": case.id,
                    "source": case.source,
                    "task": case.task,
                    "attribution": kind,
                    "neurons": ks[-1],
                    "certified": float(found[kind][n].certified.double().mean()),
                    "correlation": correlation,
                    "overlap": overlap,
                    "forward": cost.forward / tokens,
                    "backward": cost.backward / tokens,
                    "seconds": cost.seconds / len(cases),
                }
                for c, curve in enumerate(CURVES):
                    for k, value in zip(ks, values[c, r, n].tolist(), strict=True):
                        yield {**about, "curve": curve, "k": k, "probability": value}


def agreement(
    scores: Float[Tensor, "rankings neurons"], top: int
) -> tuple[list[float], list[float]]:
    """Spearman's correlation with the first row's scores, and the share of its best neurons."""
    ranks = rankdata(scores.numpy(), axis=1)
    centred = ranks - ranks.mean(1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1)
    with np.errstate(invalid="ignore"):  # scores that are all one have no correlation
        correlations = centred @ centred[0] / (lengths * lengths[0])
    size = min(top, scores.shape[1])
    best = [set(row.argsort(descending=True, stable=True)[:size].tolist()) for row in scores]
    return correlations.tolist(), [len(one & best[0]) / size for one in best]
