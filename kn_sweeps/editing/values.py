"""The MLP output that makes a model answer, for many edits in one optimisation.

Each edit has its own delta, Adam state, clamp and early stop; an edit that stops leaves the batch.
The unchanged model runs once, and from then on only what depends on delta: the blocks behind the
edited layer, at the positions from the subject's last token on (`stepping`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from kn_sweeps.cases import Case
from kn_sweeps.interventions import outputs_replaced, recorded
from kn_sweeps.methods.base import edit_probe
from kn_sweeps.models.language_model import LanguageModel, Row
from kn_sweeps.models.precision import at_least_float32
from kn_sweeps.models.tokenization import Encoded, UnscorableError
from kn_sweeps.stepping import CannotStepError, Join, Pass, Recording, Span, removed_after

log = logging.getLogger(__name__)

_ENOUGH = 5e-2


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
        relative_to_state: Whether `size` is the norm of the layer's hidden state (MEMIT), not of
            the MLP's output (ROME).
        max_rows: Rows in one pass; bounds memory.
    """

    layer: int
    steps: int
    learning_rate: float
    weight_decay: float
    clamp_norm: float
    kl_factor: float
    relative_to_state: bool = False
    max_rows: int = 256

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


@dataclass(frozen=True)
class Request:
    """One edit: what should be answered, and where.

    Attributes:
        case: Its case's id, for messages.
        prompts: The prompt in every context, the bare one first, with the new answer.
        essence: The prompt whose next token must not change; None for none.
    """

    case: str
    prompts: tuple[Encoded, ...]
    essence: Encoded | None

    @classmethod
    def of(
        cls, lm: LanguageModel, case: Case, contexts: Sequence[str], *, subject: bool = True
    ) -> Request:
        """The request of a case.

        Args:
            lm: The model.
            case: What to change; its edit query needs a subject.
            contexts: Texts to put before the prompt, the empty one first.
            subject: Whether it is edited at its subject, so that it needs one.

        Raises:
            ValueError: If there is no subject, or the bare prompt cannot be tokenised.
        """
        probe = edit_probe(case)
        if subject and probe.query.subject is None:
            raise ValueError(f"case {case.id} has no subject; this method edits at the subject")
        prompts = []
        for context in contexts:
            try:
                prompts.append(lm.encode(probe.query.after(context), probe.new))
            except UnscorableError:
                # A sampled context may be too long or end in half a word.
                if not context:
                    raise
        return cls(case.id, tuple(prompts), _essence(lm, case))


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
    lm: LanguageModel, cases: Sequence[Case], contexts: Sequence[str], objective: Objective
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
    requests, failed = requests_of(lm, cases, contexts)
    values, messages = optimise(lm, requests, objective)
    return values, failed | messages


def requests_of(
    lm: LanguageModel, cases: Sequence[Case], contexts: Sequence[str], *, subject: bool = True
) -> tuple[list[Request], dict[str, str]]:
    """The requests of some cases, and why there is none for the others; see `Request.of`."""
    requests: list[Request] = []
    failed: dict[str, str] = {}
    for case in cases:
        try:
            requests.append(Request.of(lm, case, contexts, subject=subject))
        except ValueError as error:
            failed[case.id] = str(error)
    return requests, failed


def optimise(
    lm: LanguageModel, requests: Sequence[Request], objective: Objective
) -> tuple[dict[str, Value], dict[str, str]]:
    """Find a value for every request; see `optimised`."""
    lm.architecture.check_layer(objective.layer)
    found: dict[str, Value] = {}
    failed: dict[str, str] = {}
    for group in _groups(lm, requests, objective.max_rows):
        values, messages = _Optimisation(lm, group, objective).run()
        found |= values
        failed |= messages
    return found, failed


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


def _essence(lm: LanguageModel, case: Case) -> Encoded | None:
    """The essence prompt with something in its slot; None where there is none that fits."""
    if case.essence is None:
        return None
    try:
        return lm.encode(case.essence, lm.tokenizer.mask_token or edit_probe(case).old)
    except UnscorableError:
        return None


class _Rows:
    """The rows of some requests, and what is read from them.

    Attributes:
        rows: Contexts and, last of each request, its essence.
        subjects: Where each row's subject ends.
        owners: Which request each row belongs to.
        first: By request, the first row of every context.
        golds: (row, position, token, weight) of every token of the answers.
        essences: (row, position) of every essence's next token.
    """

    def __init__(self, lm: LanguageModel, requests: Sequence[Request], *, essences: bool) -> None:
        self.rows: list[Row] = []
        self.subjects: list[int] = []
        self.owners: list[int] = []
        self.first: list[list[int]] = [[] for _ in requests]
        self.golds: list[tuple[int, int, int, float]] = []
        self.essences: list[tuple[int, int]] = []
        for number, request in enumerate(requests):
            for prompt in request.prompts:
                self.first[number].append(len(self.rows))
                weight = 1 / (len(prompt.target_ids) * len(request.prompts))
                for row in lm.rows(prompt):
                    self._add(row, prompt.subject_last, number)
                    at = len(self.rows) - 1
                    read = zip(row.positions, row.tokens, strict=True)
                    self.golds += [(at, position, token, weight) for position, token in read]
            if essences and request.essence is not None:
                row = lm.rows(request.essence)[0]
                self._add(row, request.essence.subject_last, number)
                self.essences.append((len(self.rows) - 1, row.positions[0]))

    def _add(self, row: Row, subject: int, owner: int) -> None:
        self.rows.append(row)
        self.subjects.append(subject)
        self.owners.append(owner)


class _Runner(Protocol):
    """Runs rows with delta added at their subjects.

    Attributes:
        keys: Of every row, at its subject.
        outputs: The MLP's, there.
        states: What the MLP's output was added to and gave, there.
    """

    keys: Float[Tensor, "rows d_ff"]
    outputs: Float[Tensor, "rows d_model"]
    states: Float[Tensor, "rows d_model"]

    def before(self, places: Sequence[tuple[int, int]]) -> Float[Tensor, "reads d_model"]:
        """Final hidden states of the unchanged model at (row, position)."""

    def hidden(
        self, rows: Sequence[int], deltas: Tensor, places: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "reads d_model"]:
        """Final hidden states at (row, position) with `deltas[i]` added in row `rows[i]`."""


class _Stepped:
    """See `_Runner`."""

    def __init__(self, lm: LanguageModel, rows: _Rows, layer: int) -> None:
        spans = [
            Span(row.ids, at, row.positions[-1] - at + 1, row.positions[0])
            for row, at in zip(rows.rows, rows.subjects, strict=True)
        ]
        if rows.essences and lm.kind == "causal":
            for at, position in rows.essences:
                span = spans[at]
                spans[at] = Span(span.ids, span.first, position - span.first + 1, position)
        self._lm, self._layer, self._subjects = lm, layer, rows.subjects
        self._recording = Recording(lm, spans, [layer])
        bias = lm.architecture.bias(layer)
        self.keys = self._recording.neurons[layer][:, 0]
        linear = self._recording.linear[layer][:, 0]
        self.outputs = linear if bias is None else linear + bias
        self.states = self._recording.sums[layer][:, 0]

    def before(self, places: Sequence[tuple[int, int]]) -> Tensor:
        """See `_Runner`."""
        return self._recording.hidden[[row for row, _ in places], self._columns(places)]

    def hidden(
        self, rows: Sequence[int], deltas: Tensor, places: Sequence[tuple[int, int]]
    ) -> Tensor:
        """See `_Runner`."""
        by_size: dict[int, list[int]] = {}
        for n, row in enumerate(rows):
            by_size.setdefault(self._recording.sizes[row], []).append(n)
        # Rows of one size in a pass: most of a short row beside a long one would be padding.
        found: dict[int, Tensor] = {}
        for some in by_size.values():
            spans = torch.tensor([rows[n] for n in some], device=self._lm.device)
            sums = self._recording.sums[self._layer][spans].clone()
            sums[:, 0] += deltas[some].to(sums.dtype)
            steps = Pass(self._lm, self._recording, {self._layer: Join(spans, sums)})
            found |= zip((rows[n] for n in some), steps.hidden(), strict=True)
        columns = self._columns(places)
        return torch.stack(
            [found[row][column] for (row, _), column in zip(places, columns, strict=True)]
        )

    def _columns(self, places: Sequence[tuple[int, int]]) -> list[int]:
        if not self._recording.causal:
            return [0] * len(places)
        return [position - self._subjects[row] for row, position in places]


class _Whole:
    """See `_Runner`: whole rows through the whole model; for blocks that cannot be stepped."""

    def __init__(self, lm: LanguageModel, rows: _Rows, layer: int) -> None:
        self._lm, self._layer, self._rows = lm, layer, rows
        every = range(len(rows.rows))
        at = (list(every), rows.subjects)
        batch = lm.batch([row.ids for row in rows.rows])
        with torch.no_grad(), recorded(lm, [layer]) as seen, states_seen(lm, layer) as states:
            self._before = lm.hidden(batch)
        self.keys, self.outputs = (x[at] for x in seen[layer])
        self.states = states[0][at]

    def before(self, places: Sequence[tuple[int, int]]) -> Tensor:
        """See `_Runner`."""
        return self._before[[row for row, _ in places], [position for _, position in places]]

    def hidden(
        self, rows: Sequence[int], deltas: Tensor, places: Sequence[tuple[int, int]]
    ) -> Tensor:
        """See `_Runner`."""
        at = (list(range(len(rows))), [self._rows.subjects[row] for row in rows])

        def add(_neurons: Tensor, output: Tensor) -> Tensor:
            changed = output.clone()
            changed[at] += deltas.to(output.dtype)
            return changed

        change: dict[int, Callable[[Tensor, Tensor], Tensor]] = {self._layer: add}
        with outputs_replaced(self._lm, change):
            final = self._lm.hidden(self._lm.batch([self._rows.rows[row].ids for row in rows]))
        number = {row: n for n, row in enumerate(rows)}
        return final[[number[row] for row, _ in places], [position for _, position in places]]


@contextmanager
def states_seen(lm: LanguageModel, layer: int) -> Iterator[list[Tensor]]:
    """Collect what `layer`'s MLP output was added to and gave."""
    states: list[Tensor] = []

    def keep(state: Tensor | tuple[Tensor, ...]) -> None:
        states.append(state if isinstance(state, Tensor) else state[0])

    norm = lm.architecture.post_norm(layer)
    if norm is None:
        block = lm.architecture.blocks[layer]
        handle = block.register_forward_hook(lambda _module, _args, output: keep(output))
    else:
        handle = norm.register_forward_pre_hook(lambda _module, args: keep(args))
    with removed_after([handle]):
        yield states


class _Optimisation:
    """Some requests, optimised together."""

    def __init__(
        self, lm: LanguageModel, requests: Sequence[Request], objective: Objective
    ) -> None:
        self._lm, self._requests, self._objective = lm, requests, objective
        self._rows = _Rows(lm, requests, essences=objective.kl_factor > 0)
        self._runner = self._run_unchanged()
        bare = [first[0] for first in self._rows.first]
        size_of = self._runner.states if objective.relative_to_state else self._runner.outputs
        self._sizes = at_least_float32(size_of[bare]).norm(dim=1)
        with torch.no_grad():
            before = self._runner.before(self._rows.essences)
            self._before = self._log_probs(before) if self._rows.essences else before

    def run(self) -> tuple[dict[str, Value], dict[str, str]]:
        """Optimise; see `optimised`."""
        objective, requests = self._objective, self._requests
        start = at_least_float32(self._runner.outputs[: len(requests)])
        deltas = [torch.zeros_like(output, requires_grad=True) for output in start]
        adam = torch.optim.Adam(deltas, lr=objective.learning_rate)
        failed: dict[str, str] = {}
        going = list(range(len(requests)))
        for step in range(objective.steps):
            losses = self._losses(deltas, going)
            stay: list[int] = []
            for number, loss in zip(going, losses.tolist(), strict=True):
                if not math.isfinite(loss):
                    case = requests[number].case
                    failed[case] = f"case {case}: the loss became {loss} at step {step}"
                elif loss >= _ENOUGH:
                    stay.append(number)
            if not stay or step == objective.steps - 1:
                break
            total = losses[[going.index(number) for number in stay]].sum()
            gradients = torch.autograd.grad(total, [deltas[number] for number in stay])
            adam.zero_grad()  # what has stopped has no gradient, and Adam leaves it alone
            for number, gradient in zip(stay, gradients, strict=True):
                deltas[number].grad = gradient
            adam.step()
            self._clamp(deltas, stay)
            going = stay
        values = {
            request.case: self._value(number, deltas[number].detach())
            for number, request in enumerate(requests)
            if request.case not in failed
        }
        return values, failed

    def _run_unchanged(self) -> _Runner:
        """Step where the model's blocks can be stepped and give what the model gives."""
        places = [(row, at) for row, at, _, _ in self._rows.golds if self._rows.owners[row] == 0]
        rows = sorted({row for row, _ in places})
        layer = self._objective.layer
        try:
            runner = _Stepped(self._lm, self._rows, layer)
            with torch.no_grad():
                zeros = torch.zeros(
                    len(rows), self._lm.architecture.d_model, device=self._lm.device
                )
                found = self._log_probs(runner.hidden(rows, zeros, places))
                expected = self._log_probs(runner.before(places))
            tolerance = 4 * math.sqrt(torch.finfo(self._lm.model.dtype).eps)
            if not torch.allclose(found.exp(), expected.exp(), atol=tolerance):
                raise CannotStepError("stepping does not give the model's own probabilities")
        except CannotStepError as reason:
            log.debug("values are optimised on whole rows: %s", reason)
            return _Whole(self._lm, self._rows, layer)
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
        log_probs = self._log_probs(hidden)
        gold = log_probs[range(len(golds)), [token for _, _, token, _ in golds]]
        weights = gold.new_tensor([weight for _, _, _, weight in golds])
        now = log_probs[len(golds) :]
        divergence = (now.exp() * (now - self._before[kept])).sum(-1) if kept else now.sum(-1)
        terms = torch.cat([-gold * weights, objective.kl_factor * divergence])
        of = [number[owners[row]] for row, _ in places]
        decay = objective.weight_decay * stacked.norm(dim=1) / self._sizes[list(going)] ** 2
        at = torch.tensor(of, device=decay.device)
        losses: Tensor = decay.index_add(0, at, terms.to(decay.dtype))
        return losses

    def _log_probs(self, hidden: Tensor) -> Float[Tensor, "reads vocab"]:
        return at_least_float32(self._lm.architecture.head(hidden)).log_softmax(-1)

    @torch.no_grad()
    def _clamp(self, deltas: Sequence[Tensor], numbers: Sequence[int]) -> None:
        for number in numbers:
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
