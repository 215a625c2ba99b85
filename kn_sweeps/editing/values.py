"""The MLP output that makes a model answer, for many edits in one optimisation.

Each edit has its own delta, Adam state, clamp and early stop; an edit that stops leaves the batch.
The unchanged model runs once, and from then on only what depends on delta: the blocks behind the
edited layer, at the positions from the subject's last token on (`stepping`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from kn_sweeps.cases import Case
from kn_sweeps.editing.descent import descend
from kn_sweeps.editing.requests import Request, requests_of
from kn_sweeps.editing.rows import RequestRows, Runner, Stepped, Whole
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.memory import Shape, Work
from kn_sweeps.models.precision import at_least_float32
from kn_sweeps.models.stepping import CannotStepError
from kn_sweeps.models.tokenization import Encoded
from kn_sweeps.progress.counting import counted

log = logging.getLogger(__name__)

_ENOUGH = 5e-2
_COPIES = 3
"""Of the logits, while gradients are taken: their logarithms, and the gradients of both."""

KlPosition = Literal["end", "subject"]


@dataclass(frozen=True)
class Objective:
    """What a value is optimised for, by Adam from 0.

        mean_j -log P(new | context_j + prompt) + kl_factor * KL(now || before)
            + weight_decay * |delta| / size^2,   |delta| <= clamp_norm * size

    As in the published code, -log P is averaged over the target's tokens, the divergence is taken
    from the edited to the unedited distribution at the essence, and an optimisation ends where
    the loss is below 0.05.

    Attributes:
        layer: Whose MLP output delta is added to, at the subject's last token.
        steps: Evaluations of the loss; the last one does not step.
        learning_rate: Adam's.
        weight_decay: See above.
        clamp_norm: See above.
        kl_factor: See above.
        kl_position: Where the divergence is read: `end` of the essence, as the paper says, or its
            `subject`, as the published code does.
        relative_to_state: Whether `size` is the norm of the layer's hidden state (MEMIT), not of
            the MLP's output (ROME).
        max_rows: Rows in one pass; bounds memory.
        end_of_answer: Whether `new` ends with the token that ends a text.
    """

    layer: int
    steps: int
    learning_rate: float
    weight_decay: float
    clamp_norm: float
    kl_factor: float
    kl_position: KlPosition = "end"
    relative_to_state: bool = False
    max_rows: int = 256
    end_of_answer: bool = False

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if min(self.learning_rate, self.clamp_norm) <= 0:
            raise ValueError("learning_rate and clamp_norm must be above 0")
        if min(self.weight_decay, self.kl_factor) < 0:
            raise ValueError("weight_decay and kl_factor must be 0 or more")
        if self.max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, got {self.max_rows}")


def needed(
    objective: Objective, shape: Shape, work: Work, contexts: Sequence[int]
) -> tuple[int, int]:
    """What optimising values needs: bytes a row, and how many rows a pass has.

    Args:
        objective: What they are optimised for.
        shape: The model's.
        work: Whose requests are put together as long as they fit.
        contexts: How many tokens are sampled for each context besides the bare prompt.
    """
    per = 1 + len(contexts) + (objective.kl_factor > 0)
    rows = per * max(1, min(work.cases, objective.max_rows // per))
    tokens = work.tokens + max(contexts, default=-1) + 1  # a full stop ends a context
    above = shape.layers - 1 - objective.layer
    row = _row(shape, tokens, work.behind, above)
    return row, rows


class Value(NamedTuple):
    """What was found for one request.

    Attributes:
        keys: The subject's key in every context, the bare one first.
        outputs: The MLP's output at the subject, likewise.
        state: What it was added to and gave, in the bare prompt.
        delta: What to add to the bare output, and so to the state.
    """

    keys: Float[Tensor, "contexts d_ff"]
    outputs: Float[Tensor, "contexts d_model"]
    state: Float[Tensor, " d_model"]
    delta: Float[Tensor, " d_model"]

    @property
    def v_star(self) -> Float[Tensor, " d_model"]:
        """The output that was optimised: that in the bare prompt, and delta."""
        return self.outputs[0] + self.delta


def optimised(
    lm: LanguageModel,
    cases: Sequence[Case],
    contexts: Sequence[str],
    objective: Objective,
) -> tuple[dict[str, Value], dict[str, str]]:
    """Find a value for every case.

    Args:
        lm: The model, unchanged.
        cases: What to change.
        contexts: Texts to put before the prompts, the empty one first.
        objective: What the values are optimised for.

    Returns:
        By case, the values; and why there is none for the others.

    Raises:
        ValueError: If the layer does not exist.
    """
    requests, failed = requests_of(
        lm, cases, contexts, essence=objective.kl_factor > 0, ended=objective.end_of_answer
    )
    values, messages = optimise(lm, requests, objective)
    return values, failed | messages


def optimise(
    lm: LanguageModel, requests: Sequence[Request], objective: Objective
) -> tuple[dict[str, Value], dict[str, str]]:
    """Find a value for every request; see `optimised`."""
    lm.architecture.check_layer(objective.layer)
    found: dict[str, Value] = {}
    failed: dict[str, str] = {}
    groups = list(_groups(lm, requests, lm.fitting(objective.max_rows, _each(lm, requests))))
    for group in counted(groups, "batch of edits"):
        values, messages = _Optimisation(lm, group, objective).run()
        found |= values
        failed |= messages
    return found, failed


def _each(lm: LanguageModel, requests: Sequence[Request]) -> int:
    """Bytes that the longest of some requests' rows needs."""
    prompts = [prompt for request in requests for prompt in request.prompts]
    tokens = max((len(prompt.ids) for prompt in prompts), default=1)
    behind = max((_tail(prompt) for prompt in prompts), default=1)
    if not lm.can_be_stepped:
        behind = tokens
    return _row(lm.shape, tokens, behind, lm.shape.layers)


def _row(shape: Shape, tokens: int, behind: int, above: int) -> int:
    return (
        shape.cache(1, tokens)
        + shape.kept(1, behind, tokens - behind, above)
        + shape.logits(1, _COPIES)
    )


def _groups(
    lm: LanguageModel, requests: Sequence[Request], max_rows: int
) -> Iterator[list[Request]]:
    """Requests of like length together, as many as fit."""
    group: list[Request] = []
    rows = 0
    for request in sorted(requests, key=lambda r: (_tail(r.prompts[0]), r.case)):
        own = sum(len(lm.rows(prompt)) for prompt in request.prompts) + 1
        if group and rows + own > max_rows:
            yield group
            group, rows = [], 0
        group.append(request)
        rows += own
    if group:
        yield group


def _tail(prompt: Encoded) -> int:
    return len(prompt.ids) - prompt.subject_last


class _Optimisation:
    """Some requests, optimised together."""

    def __init__(
        self, lm: LanguageModel, requests: Sequence[Request], objective: Objective
    ) -> None:
        self._lm, self._requests, self._objective = lm, requests, objective
        at = objective.kl_position if objective.kl_factor > 0 else None
        self._rows = RequestRows(lm, requests, essences=at)
        self._runner = self._run_unchanged()
        bare = [first[0] for first in self._rows.first]
        size_of = self._runner.states if objective.relative_to_state else self._runner.outputs
        # A norm in bfloat16 has three digits, and what is divided by its square fewer.
        self._sizes = at_least_float32(size_of[bare]).norm(dim=1)
        with torch.no_grad():
            before = self._runner.before(self._rows.essences)
            self._before = self._lm.predicted(before) if self._rows.essences else before

    def run(self) -> tuple[dict[str, Value], dict[str, str]]:
        """Optimise; see `optimised`."""
        objective, requests = self._objective, self._requests
        start = at_least_float32(self._runner.outputs[: len(requests)])
        deltas = [torch.zeros_like(output, requires_grad=True) for output in start]
        diverged = descend(
            deltas,
            partial(self._losses, deltas),
            partial(self._clamp, deltas),
            steps=objective.steps - 1,
            learning_rate=objective.learning_rate,
            enough=_ENOUGH,
            told="optimisation step",
            judged=True,
        )
        cases = {number: requests[number].case for number in diverged}
        failed = {case: f"case {case}: {diverged[number]}" for number, case in cases.items()}
        values = {
            request.case: self._value(number, deltas[number].detach())
            for number, request in enumerate(requests)
            if request.case not in failed
        }
        return values, failed

    def _run_unchanged(self) -> Runner:
        """Step where the model's blocks can be stepped and give what the model gives."""
        places = [(row, at) for row, at, _, _ in self._rows.golds if self._rows.owners[row] == 0]
        rows = sorted({row for row, _ in places})
        layer = self._objective.layer
        try:
            runner = Stepped(self._lm, self._rows, layer)
            with torch.no_grad():
                zeros = torch.zeros(
                    len(rows), self._lm.architecture.d_model, device=self._lm.device
                )
                found = self._lm.predicted(runner.hidden(rows, zeros, places))
                expected = self._lm.predicted(runner.before(places))
            tolerance = 4 * math.sqrt(torch.finfo(self._lm.model.dtype).eps)
            # As probabilities: the logarithms of impossible tokens differ by their rounding alone.
            if not torch.allclose(found.exp(), expected.exp(), atol=tolerance):
                raise CannotStepError("stepping does not give the model's own probabilities")
        except CannotStepError as reason:
            log.debug("values are optimised on whole rows: %s", reason)
            return Whole(self._lm, self._rows, layer)
        return runner

    def _losses(self, deltas: Sequence[Tensor], going: Sequence[int]) -> Float[Tensor, " going"]:
        """The loss of every request that goes on."""
        owners, objective = self._rows.owners, self._objective
        number = {request: n for n, request in enumerate(going)}
        rows = [row for row, owner in enumerate(owners) if owner in number]
        golds = [gold for gold in self._rows.golds if owners[gold[0]] in number]
        kept = [n for n, (row, _) in enumerate(self._rows.essences) if owners[row] in number]
        essences = [self._rows.essences[n] for n in kept]
        stacked = torch.stack([deltas[n] for n in going])
        places = [(row, position) for row, position, _, _ in golds] + essences
        hidden = self._runner.hidden(rows, stacked[[number[owners[row]] for row in rows]], places)
        log_probs = self._lm.predicted(hidden)
        gold = log_probs[range(len(golds)), [token for _, _, token, _ in golds]]
        weights = gold.new_tensor([weight for _, _, _, weight in golds])
        now = log_probs[len(golds) :]
        # From logarithms: a probability that underflows to 0 would make 0 * log 0, which is NaN.
        divergence = (now.exp() * (now - self._before[kept])).sum(-1) if kept else now.sum(-1)
        terms = torch.cat([-gold * weights, objective.kl_factor * divergence])
        # PyTorch takes 0 as the norm's gradient at delta = 0, where every optimisation begins.
        of = [number[owners[row]] for row, _ in places]
        decay = objective.weight_decay * stacked.norm(dim=1) / self._sizes[list(going)] ** 2
        at = torch.tensor(of, device=decay.device)
        losses: Tensor = decay.index_add(0, at, terms.to(decay.dtype))
        return losses

    @torch.no_grad()
    def _clamp(self, deltas: Sequence[Tensor], numbers: Sequence[int]) -> None:
        for number in numbers:
            # A delta of 0 gives infinity, or NaN if the size is 0 as well: `min` takes 1 for both.
            longest = self._objective.clamp_norm * self._sizes[number]
            deltas[number] *= min(1.0, float(longest / deltas[number].norm()))

    def _value(self, number: int, delta: Tensor) -> Value:
        first = self._rows.first[number]
        runner = self._runner
        return Value(
            at_least_float32(runner.keys[first]),
            at_least_float32(runner.outputs[first]),
            at_least_float32(runner.states[first[0]]),
            delta,
        )
