"""One way to attribute, with its settings; what was attributed before is not computed again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from kn_sweeps.attribution.baselines import (
    activation,
    atp,
    atp_star,
    by_chance,
    grad_x_act,
    lens,
    neurgrad,
    relp,
)
from kn_sweeps.attribution.cache import VERSION, active_cache
from kn_sweeps.attribution.clusters import inverse_cluster
from kn_sweeps.attribution.contrast import rival_of
from kn_sweeps.attribution.integrand import LOGITS, Measure, Site
from kn_sweeps.attribution.integrated_gradients import (
    PROMPT_ROWS,
    Attribution,
    integrated_gradients,
)
from kn_sweeps.attribution.quadrature import Quadrature
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.memory import Needs, Shape, Work
from kn_sweeps.models.tokenization import Encoded

_Asked = tuple[Encoded, tuple[Encoded, ...]]
"""A prompt, and what it is compared with, if anything."""

_POINTS = 17
"""Points of an integral that its memory is counted for: a panel's at most."""

Kind = Literal[
    "integrated_gradients",
    "grad_x_act",
    "activation",
    "neurgrad",
    "relp",
    "log_prob_increase",
    "atp",
    "atp_star",
    "eap_ig",
    "qrnca",
    "random",
]

COMPARING: tuple[Kind, ...] = ("atp", "atp_star", "eap_ig", "qrnca")
"""Those that compare a prompt: `qrnca` with all queries of its source, others with a corrupted one.
"""

_OF_PROMPTS: Mapping[Kind, Callable[..., list[Attribution]]] = {
    "grad_x_act": grad_x_act,
    "activation": activation,
    "neurgrad": neurgrad,
    "relp": relp,
    "log_prob_increase": lens,
}
"""Those that need nothing but prompts."""

_PATCHING: Mapping[Kind, Callable[..., list[Attribution]]] = {"atp": atp, "atp_star": atp_star}
"""Those that need corrupted prompts too."""

_INTEGRALS = ("integrated_gradients", "eap_ig", "qrnca")
_WHOLE_ROWS = ("relp", "atp_star")
"""Those whose gradients go through whole rows."""


@dataclass(frozen=True)
class Attributor:
    """Attribute targets to neurons.

    Attributes:
        kind: Which attribution.
        measure: Of the target.
        quadrature: For integrated gradients.
        max_rows: Rows in one forward pass; bounds memory.
        site: Where integrated gradients scale neurons.
        seed: What random scores are drawn from, with the prompt.
    """

    kind: Kind = "integrated_gradients"
    measure: Measure = "probability"
    quadrature: Quadrature = Quadrature()
    max_rows: int = 512
    site: Site = "activation"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse names that do not exist."""
        for name, value, known in (
            ("attribution", self.kind, get_args(Kind)),
            ("measure", self.measure, get_args(Measure)),
            ("site", self.site, get_args(Site)),
        ):
            if value not in known:
                raise ValueError(f"{name} {value!r}; choose from {', '.join(known)}")
        if self.site != "activation" and self.kind != "integrated_gradients":
            raise ValueError(f"site={self.site} is of integrated_gradients, not of {self.kind}")
        if self.max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, got {self.max_rows}")

    @property
    def compares(self) -> bool:
        """Whether prompts are compared with others."""
        return self.kind in COMPARING

    def __call__(
        self,
        lm: LanguageModel,
        prompts: Sequence[Encoded],
        against: Sequence[tuple[Encoded, ...]] | None = None,
    ) -> list[Attribution]:
        """Attribute each prompt's target; equal prompts once, and cached ones not at all.

        Which prompts share batches decides the last digits, so prompts are kept together as they
        are given: either all of them are cached by a call with the same ones, or all are computed.
        Scores are then the same bit for bit whatever was cached before.

        Of an edited model nothing is cached: a revision does not say what its weights are.

        Args:
            lm: The model.
            prompts: Queries with their targets.
            against: What each is compared with (`fellows.compared_with`), where the kind compares;
                else it is not looked at.
        """
        asked = self._asked(prompts, against)
        cache = active_cache() if lm.revision and not lm.is_edited else None
        distinct = list({_question(one): one for one in asked}.values())
        rows = self._rows(lm, distinct)
        keys = self._keys(lm, distinct, rows)
        found = [cache.get(key) for key in keys] if cache is not None else []
        known = [one for one in found if one is not None]
        if len(known) < len(distinct):
            known = self._computed(lm, distinct, rows)
            for key, new in zip(keys, known, strict=True):
                if cache is not None:
                    cache.put(key, new)
        by_question = {_question(p): one for p, one in zip(distinct, known, strict=True)}
        return [by_question[_question(one)] for one in asked]

    def computed(
        self,
        lm: LanguageModel,
        prompts: Sequence[Encoded],
        against: Sequence[tuple[Encoded, ...]] | None = None,
    ) -> list[Attribution]:
        """Attribute each prompt's target anew, whatever is cached, but for `prepare`."""
        asked = self._asked(prompts, against)
        return self._computed(lm, asked, self._rows(lm, asked))

    def prepare(self, lm: LanguageModel, against: Sequence[tuple[Encoded, ...]]) -> None:
        """Have in the cache what all prompts of a source share, if this kind has such."""
        if self.kind == "qrnca":
            for queries in dict.fromkeys(against):
                self._integrals(lm, queries)

    def _asked(
        self, prompts: Sequence[Encoded], against: Sequence[tuple[Encoded, ...]] | None
    ) -> list[_Asked]:
        if not self.compares:
            return [(prompt, ()) for prompt in prompts]
        if against is None or len(against) != len(prompts):
            raise ValueError(f"{self.kind} needs for each prompt what it is compared with")
        return list(zip(prompts, against, strict=True))

    def needs(self, shape: Shape, work: Work) -> Needs:
        """What attributing some prompts together needs of memory, beside the model."""
        prompts = min(work.prompts, max(1, self.max_rows // PROMPT_ROWS))
        whole = prompts * shape.layers * (shape.d_ff + 3 * shape.d_model) * shape.number
        recorded = shape.cache(prompts, work.tokens) + whole
        whole_rows = self.kind in _WHOLE_ROWS
        kept = (work.tokens, 0) if whole_rows else (1, work.tokens)
        unchanged = shape.kept(prompts, *kept, shape.layers)
        if self.kind not in _INTEGRALS:
            return Needs(activations=recorded + unchanged)
        points = prompts * shape.layers * _POINTS
        rows = min(self.max_rows, points)
        changed = shape.kept(rows, 1, work.tokens, shape.layers)
        logits = shape.logits(min(rows, LOGITS // shape.vocabulary), 1)
        return Needs(
            activations=recorded + max(unchanged, changed + logits),
            statistics=points * shape.d_ff * 8,
        )

    def _rows(self, lm: LanguageModel, asked: Sequence[_Asked]) -> int:
        """How many rows of these prompts to compute at once."""
        prompts = [one for prompt, against in asked for one in (prompt, *against)]
        longest = max((len(prompt.ids) for prompt in prompts), default=1)
        width = max((len(prompt.target_ids) for prompt in prompts), default=1)
        each = lm.shape.kept(1, width, longest, lm.shape.layers)
        if not lm.can_be_stepped or self.kind in _WHOLE_ROWS:
            each = lm.shape.kept(1, longest, 0, lm.shape.layers)
        return lm.fitting(self.max_rows, each)

    def _computed(self, lm: LanguageModel, asked: Sequence[_Asked], rows: int) -> list[Attribution]:
        prompts = [prompt for prompt, _ in asked]
        if self.kind == "qrnca":
            return self._weighted(lm, asked)
        corrupt = [against[0] for _, against in asked if against]
        if self.kind in _OF_PROMPTS:
            return _OF_PROMPTS[self.kind](lm, prompts, measure=self.measure, max_rows=rows)
        if self.kind in _PATCHING:
            return _PATCHING[self.kind](lm, prompts, corrupt, measure=self.measure, max_rows=rows)
        if self.kind == "random":
            return by_chance(lm, prompts, seed=self.seed, measure=self.measure, max_rows=rows)
        return integrated_gradients(
            lm,
            prompts,
            self.quadrature,
            measure=self.measure,
            site=self.site,
            max_rows=rows,
            baselines=corrupt if self.compares else None,
        )

    def _weighted(self, lm: LanguageModel, asked: Sequence[_Asked]) -> list[Attribution]:
        """Integrals, which are what their certificate is about, by how rare neurons are."""
        found = replace(self, kind="integrated_gradients").computed(lm, [p for p, _ in asked])
        weights = {
            queries: inverse_cluster([one.scores for one in self._integrals(lm, queries)])
            for queries in dict.fromkeys(against for _, against in asked)
        }
        return [
            replace(one, scores=one.scores * weights[against])
            for one, (_, against) in zip(found, asked, strict=True)
        ]

    def _integrals(self, lm: LanguageModel, queries: Sequence[Encoded]) -> list[Attribution]:
        """Those of a source's queries: always asked together, so that they are cached as such."""
        return replace(self, kind="integrated_gradients")(lm, queries)

    def _keys(self, lm: LanguageModel, asked: Sequence[_Asked], rows: int) -> list[str]:
        """Where each of some prompts that are computed together is cached."""
        settings: dict[str, Any] | None = None
        if self.kind in _INTEGRALS:
            settings = asdict(self.quadrature)
        elif self.kind == "random":
            settings = {"seed": self.seed}
        about = {
            "version": VERSION,
            "model": [lm.name, lm.revision, str(lm.model.dtype), lm.device.type],
            "attribution": [self.kind, self.measure, self.site, settings],
            "rows": rows,
            "together": [_question(one) for one in asked],
        }
        whole = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        return [f"{whole[:40]}-{number}" for number in range(len(asked))]


def _question(asked: _Asked) -> tuple[Any, ...]:
    """What attribution sees of a prompt, and of what it is compared with."""
    prompt, against = asked
    return tuple((one.ids, one.target, rival_of(one)) for one in (prompt, *against))
