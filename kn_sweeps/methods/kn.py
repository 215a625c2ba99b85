"""Knowledge neurons (Dai et al. 2022): locate the neurons that express a target; scale them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import repeat
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kn_sweeps.attribution.attributor import COMPARING, Attributor, Kind
from kn_sweeps.attribution.contrast import encoder
from kn_sweeps.attribution.fellows import compared_with
from kn_sweeps.attribution.integrand import Measure, Site
from kn_sweeps.attribution.integrated_gradients import Attribution
from kn_sweeps.attribution.quadrature import Quadrature, Rule
from kn_sweeps.cases import Case, Intent, Query, edit_probe
from kn_sweeps.edits import Edit, Neuron, NeuronScale, RankOne, State, Where, joined
from kn_sweeps.interventions import written_by
from kn_sweeps.methods.base import Method
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.memory import Needs, Shape, Work
from kn_sweeps.models.tokenization import Encoded
from kn_sweeps.plans import Certificate, Located, Plan

_FACTORS = {"suppress": 0.0, "enhance": 2.0}
_OPERATIONS = (*_FACTORS, "update")


@dataclass(frozen=True)
class KnowledgeNeurons(Method):
    """Locate by integrated gradients over several prompts, keep what they share, change it.

    For a fact the prompts are the phrasings it may see; for syntax, sentences of the paradigm
    with the same target form.

    Attributes:
        operation: `suppress` (x 0) erases the old answer; `enhance` (x 2) promotes the new one;
            `update` takes the old answer's embedding from what the neurons write and adds the
            new one's, both scaled to the length of what is there.
        locate: Whose neurons: `old` or `new`; null for new when enhancing, else old.
        update_old: How much of the old answer's embedding `update` takes away.
        update_new: How much of the new answer's it adds.
        threshold: A prompt's coarse set is the neurons scoring above this share of its maximum.
        share: A refined neuron is in more than this share of the coarse sets, at first.
        share_step: How far that share moves at a time.
        max_adjustments: How often at most.
        min_neurons: Fewest neurons wanted.
        max_neurons: Most neurons wanted.
        refine: Where no share gives a number in the wanted range: `nearest` takes the nearest set
            above it and of that the neurons with the largest mean score; `published` whatever the
            last share tried leaves, as Dai et al.'s and Niu et al.'s code.
        attribution: `integrated_gradients`, or a baseline: `grad_x_act`, `activation`, `neurgrad`,
            `relp`, `log_prob_increase` or `random`, of which nothing but chance is located;
            compared with the same prompt about another case's subject, `atp`, `atp_star` or
            `eap_ig`; or `qrnca`, compared with the queries of all cases of its source.
        measure: What is attributed: the target's `probability` or `log_probability`, or
            `logit_difference`, by how much its logit is above that of the case's other answer.
        quadrature: `adaptive`, or a fixed rule; see `Quadrature`.
        steps: Nodes of a fixed rule.
        tol: Largest completeness residual and estimated error, relative; see `Quadrature`.
        max_nodes: Nodes of an adaptive integral at most.
        max_rows: Largest number of rows in one forward pass; bounds memory.
        where: Whether neurons are scaled at every position, or only where an answer is `read`, as
            the published code does.
        site: Where attribution scales neurons: behind the activation function, or `pre_activation`
            (decoders only), as Niu et al.'s code does. To suppress them is the same at both.
        neurons: These, as (layer, index) from 0, for every case, without a search; None to search.

    Source: Dai et al. (2022), sections 3.2, 3.3 and 4.4; hyper-parameters from their code. Two
    deviations: a neuron is scaled at every position, so that an edit is a change of weights; and
    `refine=nearest`, where `in_range` says that no share gave a number in the wanted range.
    """

    operation: Literal["suppress", "enhance", "update"] = "suppress"
    locate: Literal["old", "new"] | None = None
    update_old: float = 1.0
    update_new: float = 8.0
    threshold: float = 0.2
    share: float = 0.7
    share_step: float = 0.05
    max_adjustments: int = 20
    min_neurons: int = 2
    max_neurons: int = 5
    refine: Literal["nearest", "published"] = "nearest"
    attribution: Kind = "integrated_gradients"
    measure: Measure = "probability"
    quadrature: Rule = "adaptive"
    steps: int = 20
    tol: float = 1e-3
    max_nodes: int = 512
    max_rows: int = 512
    where: Where = "everywhere"
    site: Site = "activation"
    neurons: tuple[Neuron, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        if self.operation not in _OPERATIONS:
            raise ValueError(f"operation {self.operation!r}; choose from {', '.join(_OPERATIONS)}")
        for name in ("threshold", "share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.share_step <= 0 or self.max_adjustments < 0:
            raise ValueError(
                "share_step must be above 0 and max_adjustments 0 or more; got "
                f"{self.share_step} and {self.max_adjustments}"
            )
        if self.where == "read" and self.operation == "update":
            raise ValueError(
                "an update changes weights, which act everywhere; use where=everywhere"
            )
        if self.site != "activation" and self.operation != "suppress":
            raise ValueError(
                "before the activation neurons can only be suppressed; use site=activation to "
                f"{self.operation} them"
            )
        if not 1 <= self.min_neurons <= self.max_neurons:
            raise ValueError(
                "1 <= min_neurons <= max_neurons must hold, got "
                f"{self.min_neurons} and {self.max_neurons}"
            )
        self._attributor()

    @property
    @override
    def intent(self) -> Intent:
        """Suppressing erases; enhancing and updating replace."""
        return "erase" if self.operation == "suppress" else "replace"

    @override
    def group(self, case: Case) -> str:
        """Facts stand alone; pairs of a paradigm with one target form share their neurons."""
        if case.task == "fact":
            return case.id
        # What an update adds is that of one new form.
        new = f">{edit_probe(case).new}" if self.operation == "update" else ""
        if case.seen_answers:
            return f"{case.source}{new}"
        return f"{case.source}/{self._target(case)}{new}"

    @override
    def needs(self, shape: Shape, work: Work) -> Needs:
        """What its attributor needs; edits are some indices."""
        return Needs() if self.neurons is not None else self._attributor().needs(shape, work)

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
        """Locate once a group and scale what was found."""
        groups: dict[str, list[Case]] = {}
        for case in cases:
            groups.setdefault(self.group(case), []).append(case)
        if self.neurons is not None:
            edits = {name: self._edit(lm, some[0], self.neurons) for name, some in groups.items()}
            edit_of = {case.id: self.group(case) for case in cases}
            return Plan(edits, edit_of, intent=self.intent)
        prompts = {name: self._prompts(lm, name, members) for name, members in groups.items()}
        # An edit at a time: its scores do not depend on what else is in the step, or was cached.
        attributor = self._attributor(seed)
        attributions = {name: attributor(lm, *some) for name, some in prompts.items()}
        edits = {}
        located: list[Located] = []
        scores: dict[str, list[Tensor]] = {}
        for name, members in groups.items():
            results = attributions[name]
            rows = torch.stack([result.scores.flatten() for result in results])
            neurons, tau, in_range = self.refined(rows)
            found = Located(
                edit=name,
                source=members[0].source,
                cases=tuple(case.id for case in members),
                neurons=tuple(divmod(i, lm.architecture.d_ff) for i in neurons),
                tau=tau,
                in_range=in_range,
                certificates=tuple(map(_certificate, results)),
            )
            located.append(found)
            edits[name] = self._edit(lm, members[0], found.neurons)
            scores.setdefault(found.source, []).append(rows)
        return Plan(
            edits,
            {case.id: self.group(case) for case in cases},
            tuple(located),
            {source: torch.cat(rows) for source, rows in scores.items()},
            intent=self.intent,
        )

    def _attributor(self, seed: int = 0) -> Attributor:
        quadrature = Quadrature(self.quadrature, self.steps, self.tol, self.max_nodes)
        return Attributor(
            self.attribution, self.measure, quadrature, self.max_rows, self.site, seed
        )

    def _target(self, case: Case) -> str:
        probe = edit_probe(case)
        locate = self.locate or ("new" if self.operation == "enhance" else "old")
        return probe.old if locate == "old" else probe.new

    def _rival(self, case: Case) -> str:
        """The answer that the target is compared with."""
        probe = edit_probe(case)
        return probe.new if self._target(case) == probe.old else probe.old

    def _edit(self, lm: LanguageModel, case: Case, neurons: Sequence[Neuron]) -> Edit:
        if self.operation != "update":
            return NeuronScale(tuple(neurons), _FACTORS[self.operation], self.where)
        probe = edit_probe(case)
        old, new = (self._embedding(lm, probe.query, text) for text in (probe.old, probe.new))
        direction = self.update_new * new - self.update_old * old
        changes = []
        for layer, index in neurons:
            slot = written_by(lm, layer, [index])[0, 0].float()
            u = torch.zeros(lm.architecture.d_ff)
            u[index] = 1
            changes.append(RankOne(layer, u, (slot.norm() * direction).cpu()))
        return joined(changes)

    @staticmethod
    def _embedding(lm: LanguageModel, query: Query, target: str) -> Float[Tensor, " d_model"]:
        """The direction of a target's embedding; of several tokens, of their mean.

        Raises:
            ValueError: If embeddings are not as wide as what neurons write.
        """
        has = lm.architecture
        if has.d_embedding != has.d_model:
            raise ValueError(
                f"{lm.name}: operation=update writes embeddings, which have {has.d_embedding} "
                f"numbers, and its neurons write {has.d_model}; use another operation"
            )
        ids = torch.tensor(lm.encode(query, target).target_ids, device=lm.device)
        embedding: Tensor = lm.architecture.embeddings(ids).float().mean(0)
        return torch.nn.functional.normalize(embedding, dim=0)

    def _prompts(
        self, lm: LanguageModel, name: str, cases: Sequence[Case]
    ) -> tuple[list[Encoded], list[tuple[Encoded, ...]] | None]:
        """What is attributed, and what that is compared with, where the attribution compares."""
        target = self._target(cases[0])
        if cases[0].seen_answers and target != edit_probe(cases[0]).old:
            raise ValueError(f"{name}: its prompts have answers of their own; use locate=old")
        if self.measure == "logit_difference" and cases[0].seen_answers:
            raise ValueError(
                f"{name}: its prompts have answers of their own and none to compare them with; "
                "use another measure than logit_difference"
            )
        encode = encoder(lm, self.measure)
        compares = self.measure == "logit_difference"
        asked = dict.fromkeys(
            (query, answer, self._rival(case) if compares else "")
            for case in cases
            for query, answer in zip(case.seen, case.seen_answers or repeat(target), strict=False)
        )
        if not asked:
            raise ValueError(f"{name}: no prompt may be seen, so no neuron can be located")
        prompts = [encode(*one) for one in asked]
        if self.attribution not in COMPARING:
            return prompts, None
        return prompts, [
            compared_with(self.attribution, cases[0], query, (answer, rival), encode)
            for query, answer, rival in asked
        ]

    def refined(self, scores: Float[Tensor, "prompts neurons"]) -> tuple[list[int], float, bool]:
        """The neurons many prompts share.

        Args:
            scores: One prompt's attributions a row.

        Returns:
            Flat neuron indices with the largest mean score first, the share they had to exceed,
            and whether that share alone brought their number into the wanted range.
        """
        counts: Counter[int] = Counter()
        for row in scores:
            # Each prompt has its own maximum: the threshold never carries over to the next.
            counts.update(torch.nonzero(row > self.threshold * row.max())[:, 0].tolist())
        published = self.refine == "published"
        tau, kept = (self._published if published else self._nearest)(counts, len(scores))
        mean = scores.mean(0)
        ranked = sorted(kept, key=lambda i: (-float(mean[i]), i))
        in_range = self.min_neurons <= len(ranked) <= self.max_neurons
        return ranked if published else ranked[: self.max_neurons], tau, in_range

    def _nearest(self, counts: Counter[int], prompts: int) -> tuple[float, list[int]]:
        """Move the share until it leaves a wanted number; if none does, the nearest above it."""
        tried: dict[float, list[int]] = {}
        tau = self.share
        for _ in range(self.max_adjustments + 1):
            # Rounding keeps 0.7 + 6 * 0.05 from being a little more or less than 1.
            tau = round(tau, 6)
            kept = [i for i, n in counts.items() if n > tau * prompts + 1e-9]
            if self.min_neurons <= len(kept) <= self.max_neurons:
                return tau, kept
            if tau in tried:
                break
            tried[tau] = kept
            tau += self.share_step if len(kept) > self.max_neurons else -self.share_step
            if not 0 <= round(tau, 6) < 1:
                break
        enough = {t: kept for t, kept in tried.items() if len(kept) >= self.min_neurons}
        chosen = min((enough or tried).values(), key=lambda k: abs(len(k) - self.max_neurons))
        # Several shares may leave the same set: the search got as far as the last of them.
        return [t for t, kept in tried.items() if kept == chosen][-1], chosen

    def _published(self, counts: Counter[int], prompts: int) -> tuple[float, list[int]]:
        """As the published code: the set of the last share tried, whatever its size.

        The share is not kept below 1, where nothing exceeds it, so that a search which finds too
        many at .95 goes to and fro; the sums are its own, with their rounding.
        """
        share = tau = self.share
        kept: list[int] = []
        for _ in range(max(1, self.max_adjustments)):
            tau, kept = share, [i for i, n in counts.items() if n > prompts * share]
            if len(kept) < self.min_neurons:
                share -= self.share_step
            elif len(kept) > self.max_neurons:
                share += self.share_step
            else:
                break
        return tau, kept


def _certificate(attribution: Attribution) -> Certificate:
    """How accurate an attribution is; its fields go by the same names."""
    return Certificate(
        *(tuple(getattr(attribution, one.name).tolist()) for one in fields(Certificate))
    )
