"""One way to attribute, with its settings; what was attributed before is not computed again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from kn_sweeps.attribution.baselines import (
    activation,
    atp,
    by_chance,
    grad_x_act,
    lens,
    neurgrad,
    relp,
)
from kn_sweeps.attribution.cache import VERSION, active_cache
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

_Asked = tuple[Encoded, Encoded | None]
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
    "eap_ig",
    "random",
]

COMPARING: tuple[Kind, ...] = ("atp", "eap_ig")
"""Those that compare a prompt with a corrupted one."""

_OF_PROMPTS: Mapping[Kind, Callable[..., list[Attribution]]] = {
    "grad_x_act": grad_x_act,
    "activation": activation,
    "neurgrad": neurgrad,
    "relp": relp,
    "log_prob_increase": lens,
}
"""Those that need nothing but prompts."""

_INTEGRALS = ("integrated_gradients", "eap_ig")


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
        """Whether prompts are compared with corrupted ones."""
        return self.kind in COMPARING

    def __call__(
        self,
        lm: LanguageModel,
        prompts: Sequence[Encoded],
        corrupt: Sequence[Encoded] | None = None,
    ) -> list[Attribution]:
        """Attribute each prompt's target; equal prompts once, and cached ones not at all.

        Which prompts share batches decides the last digits, so prompts are kept together as they
        are given: either all of them are cached by a call with the same ones, or all are computed.
        Scores are then the same bit for bit whatever was cached before.

        Of an edited model nothing is cached: a revision does not say what its weights are.

        Args:
            lm: The model.
            prompts: Queries with their targets.
            corrupt: What each is compared with, where the kind compares; else it is not looked at.
        """
        asked = self._asked(prompts, corrupt)
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
        corrupt: Sequence[Encoded] | None = None,
    ) -> list[Attribution]:
        """Attribute each prompt's target anew, whatever is cached."""
        asked = self._asked(prompts, corrupt)
        return self._computed(lm, asked, self._rows(lm, asked))

    def _asked(self, prompts: Sequence[Encoded], corrupt: Sequence[Encoded] | None) -> list[_Asked]:
        if not self.compares:
            return [(prompt, None) for prompt in prompts]
        if corrupt is None or len(corrupt) != len(prompts):
            raise ValueError(f"{self.kind} needs a corrupted prompt for each prompt")
        return list(zip(prompts, corrupt, strict=True))

    def needs(self, shape: Shape, work: Work) -> Needs:
        """What attributing some prompts together needs of memory, beside the model."""
        prompts = min(work.prompts, max(1, self.max_rows // PROMPT_ROWS))
        whole = prompts * shape.layers * (shape.d_ff + 3 * shape.d_model) * shape.number
        recorded = shape.cache(prompts, work.tokens) + whole
        whole_rows = self.kind == "relp"
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
        prompts = [one for pair in asked for one in pair if one is not None]
        longest = max((len(prompt.ids) for prompt in prompts), default=1)
        width = max((len(prompt.target_ids) for prompt in prompts), default=1)
        each = lm.shape.kept(1, width, longest, lm.shape.layers)
        if not lm.can_be_stepped or self.kind == "relp":
            each = lm.shape.kept(1, longest, 0, lm.shape.layers)
        return lm.fitting(self.max_rows, each)

    def _computed(self, lm: LanguageModel, asked: Sequence[_Asked], rows: int) -> list[Attribution]:
        prompts = [prompt for prompt, _ in asked]
        corrupt = [other for _, other in asked if other is not None]
        if self.kind in _OF_PROMPTS:
            return _OF_PROMPTS[self.kind](lm, prompts, measure=self.measure, max_rows=rows)
        if self.kind == "atp":
            return atp(lm, prompts, corrupt, measure=self.measure, max_rows=rows)
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
    prompt, corrupt = asked
    seen = (prompt.ids, prompt.target, rival_of(prompt))
    return seen if corrupt is None else (*seen, corrupt.ids, corrupt.target)
