"""Ask a language model: score targets and read greedy answers.

Questions may be asked of differently edited models in one batch: each carries its edit, and
`changed` puts those of a batch's rows into effect.

A causal LM reads each prompt once: its keys and values serve all targets and the greedy answer,
which only add their own tokens. A masked LM reads one row for each target token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from kn_sweeps.cases import Query
from kn_sweeps.edits import Edit
from kn_sweeps.models.language_model import Ids, LanguageModel, Row, read_where
from kn_sweeps.models.tokenization import Encoded
from kn_sweeps.progress.counting import counted
from kn_sweeps.progress.interruption import check

Changed = Callable[[Sequence[Edit | None]], AbstractContextManager[None]]
"""Gives the rows of a batch, in order, these edits; None leaves a row as it is."""


class Question(NamedTuple):
    """A query with two targets, asked of the model under one edit.

    Attributes:
        query: What is asked.
        old: The first target.
        new: The second; it may equal the first.
        edit: The edit; None where nothing is changed.
    """

    query: Query
    old: str
    new: str
    edit: Edit | None = None


class Sentence(NamedTuple):
    """A whole sentence, scored under one edit; see `Question.edit`."""

    text: str
    edit: Edit | None = None


@dataclass(frozen=True)
class TargetScore:
    """How a model rates one target.

    Attributes:
        ids: The target's token ids.
        log_probs: Log-probability of each, in nats, given the gold tokens before it.
        hits: Whether each is the argmax at its position.
        exact: Whether the greedy answer, as long as the target, is the target.
    """

    ids: Ids
    log_probs: tuple[float, ...]
    hits: tuple[bool, ...]
    exact: bool

    @property
    def log_prob(self) -> float:
        """Joint log-probability of the target, in nats."""
        return sum(self.log_probs)

    @property
    def argmax(self) -> bool:
        """Whether every token is the argmax under teacher forcing."""
        return all(self.hits)

    @property
    def token_share(self) -> float:
        """Share of the target's tokens that are the argmax, in [0, 1]."""
        return sum(self.hits) / len(self.hits)


@dataclass(frozen=True)
class Reply:
    """What a model says to one question.

    Attributes:
        old: The score of the first target.
        new: The score of the second.
        answer: Greedy answer; a causal LM's has as many tokens as the longer target, a masked
            LM's as many pieces as `new`.
        first_log_probs: Log-probabilities of the answer's first token, in nats, on the CPU.
    """

    old: TargetScore
    new: TargetScore
    answer: str
    first_log_probs: Float[Tensor, " vocab"]


@torch.inference_mode()
def ask(
    lm: LanguageModel, questions: Sequence[Question], changed: Changed | None = None
) -> list[Reply]:
    """Ask every question.

    Raises:
        UnscorableError: If a question cannot be tokenised.
    """
    asked = [
        _Asked(n, (lm.encode(q.query, q.old), lm.encode(q.query, q.new)), q.edit)
        for n, q in enumerate(questions)
    ]
    replies = dict(
        (_ask_causal if lm.kind == "causal" else _ask_masked)(lm, asked, changed or _unchanged)
    )
    return [replies[n] for n in range(len(questions))]


@torch.inference_mode()
def score_sentences(
    lm: LanguageModel, sentences: Sequence[Sentence], changed: Changed | None = None
) -> list[TargetScore]:
    """Score whole sentences; see `LanguageModel.sentence_rows`."""
    encoded = [lm.encode(Query(""), sentence.text) for sentence in sentences]
    rows = [lm.sentence_rows(one) for one in encoded]
    readings = _read(
        lm,
        (
            _slot(row, position, sentence.edit, token)
            for sentence, group in zip(sentences, rows, strict=True)
            for row in group
            for position, token in zip(row.positions, row.tokens, strict=True)
        ),
        changed or _unchanged,
    )
    return [
        _score(
            one.target_ids,
            [
                readings[_slot(row, position, sentence.edit, token)]
                for row in group
                for position, token in zip(row.positions, row.tokens, strict=True)
            ],
        )
        for sentence, one, group in zip(sentences, encoded, rows, strict=True)
    ]


class _Asked(NamedTuple):
    number: int
    targets: tuple[Encoded, Encoded]
    edit: Edit | None


class _Reading(NamedTuple):
    """One place, read: the likeliest token, and the log-probability of the gold one."""

    argmax: int
    log_prob: float
    gold: int
    log_probs: Tensor | None = None


class _Slot(NamedTuple):
    """One place to read; `whole` keeps all log-probabilities, on the CPU."""

    ids: Ids
    edit: Edit | None
    position: int
    token: int
    whole: bool = False


def _unchanged(_edits: Sequence[Edit | None]) -> AbstractContextManager[None]:
    return nullcontext()


def _slot(row: Row, position: int, edit: Edit | None, token: int) -> _Slot:
    return _Slot(row.ids, edit, position, token)


def _score(ids: Ids, read: Sequence[_Reading], answer: Ids | None = None) -> TargetScore:
    hits = tuple(one.argmax == one.gold for one in read)
    exact = all(hits) if answer is None else answer == ids
    return TargetScore(ids, tuple(one.log_prob for one in read), hits, exact)


def _batches(
    rows: Iterable[tuple[Ids, Edit | None]], size: int
) -> Iterator[list[tuple[Ids, Edit | None]]]:
    """Rows of like length together: padding is waste. Equal ones are in the order of edits."""
    every = list(rows)
    order: dict[Edit | None, int] = {}
    for _, edit in every:
        order.setdefault(edit, len(order))
    ordered = sorted(every, key=lambda row: (len(row[0]), row[0], order[row[1]]))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _read(lm: LanguageModel, slots: Iterable[_Slot], changed: Changed) -> dict[_Slot, _Reading]:
    """Read whole rows; equal ones are computed once."""
    wanted: dict[tuple[Ids, Edit | None], dict[_Slot, None]] = defaultdict(dict)
    for slot in slots:
        wanted[slot.ids, slot.edit][slot] = None
    readings: dict[_Slot, _Reading] = {}
    for chunk in counted(list(_batches(wanted, lm.batch_size)), "batch of rows"):
        places = [(i, slot) for i, row in enumerate(chunk) for slot in wanted[row]]
        with changed([edit for _, edit in chunk]):
            log_probs = lm.log_probs(
                lm.batch([ids for ids, _ in chunk]),
                [i for i, _ in places],
                [slot.position for _, slot in places],
            )
        found = _readings(log_probs, [slot.token for _, slot in places])
        for (_, slot), reading, whole in zip(places, found, log_probs, strict=True):
            kept = whole.cpu() if slot.whole else None
            readings[slot] = reading._replace(log_probs=kept)
    return readings


def _readings(log_probs: Float[Tensor, "reads vocab"], tokens: Sequence[int]) -> list[_Reading]:
    gold = log_probs.gather(1, torch.tensor(tokens, device=log_probs.device)[:, None])[:, 0]
    best = log_probs.argmax(-1)
    return [_Reading(*each) for each in zip(best.tolist(), gold.tolist(), tokens, strict=True)]


def _reply(lm: LanguageModel, scores: Sequence[TargetScore], answer: Ids, first: Tensor) -> Reply:
    text = str(lm.tokenizer.decode(list(answer), skip_special_tokens=True)).strip()
    return Reply(scores[0], scores[1], text, first)


class Trunks:
    """Prompts of a causal LM, each read once under its edit.

    Attributes:
        log_probs: Of the token after each, on the model's device.
    """

    def __init__(
        self, lm: LanguageModel, rows: Sequence[tuple[Ids, Edit | None]], changed: Changed
    ) -> None:
        """Read the prompts."""
        self._lm, self._changed = lm, changed
        self._edits = [edit for _, edit in rows]
        batch, cache = lm.batch([ids for ids, _ in rows]), DynamicCache()
        last = batch.mask.sum(1) - 1
        every = torch.arange(len(rows), device=lm.device)
        where = torch.zeros_like(batch.mask, dtype=torch.bool)
        where[every, last] = True
        with changed(self._edits), read_where(where):
            output = lm.architecture.base(
                input_ids=batch.ids, attention_mask=batch.mask, past_key_values=cache
            )
        self.log_probs = lm.predicted(output.last_hidden_state[every, last])
        self._mask = batch.mask.flip(1)
        # Plain layers: the cache was made without a config.
        self._kept = [
            (_beside(one.keys, batch.mask), _beside(one.values, batch.mask))  # type: ignore[union-attr, arg-type]
            for one in cache.layers
        ]

    def after(self, branches: Sequence[tuple[int, Ids]]) -> list[Float[Tensor, "tokens vocab"]]:
        """Log-probabilities behind every token of each (prompt, what follows it)."""
        found: list[Tensor] = []
        for start in range(0, len(branches), self._lm.batch_size):
            check()
            found += self._after(branches[start : start + self._lm.batch_size])
        return found

    def _after(self, branches: Sequence[tuple[int, Ids]]) -> list[Tensor]:
        lm = self._lm
        trunks = torch.tensor([trunk for trunk, _ in branches], device=lm.device)
        batch = lm.batch([ids for _, ids in branches])
        mask = self._mask[trunks]
        steps = torch.arange(batch.ids.shape[1], device=lm.device)
        kept = [(keys[trunks], values[trunks]) for keys, values in self._kept]
        edits = [self._edits[trunk] for trunk, _ in branches]
        with self._changed(edits), read_where(batch.mask.bool()):
            output = lm.architecture.base(
                input_ids=batch.ids,
                attention_mask=torch.cat([mask, batch.mask], 1),
                position_ids=mask.sum(1)[:, None] + steps,
                past_key_values=DynamicCache(kept),
            )
        sizes = [len(ids) for _, ids in branches]
        rows = [i for i, size in enumerate(sizes) for _ in range(size)]
        columns = [j for size in sizes for j in range(size)]
        log_probs = lm.predicted(output.last_hidden_state[rows, columns])
        return list(log_probs.split(sizes))


def _beside(
    x: Float[Tensor, "batch heads seq head"], mask: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch heads seq head"]:
    """Padding moved from the end to the front, so that what follows stands next to the prompt.

    Between them it would count where a model measures distance by place: in a sliding window, or
    with ALiBi.
    """
    steps = torch.arange(mask.shape[1], device=x.device)
    places = (steps - (mask == 0).sum(1, keepdim=True)).clamp(min=0)
    return x.gather(2, places[:, None, :, None].expand_as(x))


def _ask_causal(
    lm: LanguageModel, asked: Sequence[_Asked], changed: Changed
) -> Iterator[tuple[int, Reply]]:
    by_prompt: dict[tuple[Ids, Edit | None], list[_Asked]] = defaultdict(list)
    for one in asked:
        by_prompt[one.targets[0].prompt_ids, one.edit].append(one)
    for rows in counted(list(_batches(by_prompt, lm.batch_size)), "batch of prompts"):
        trunks = Trunks(lm, rows, changed)
        yield from _replies(lm, trunks, [by_prompt[row] for row in rows])


def _replies(
    lm: LanguageModel, trunks: Trunks, asked: Sequence[Sequence[_Asked]]
) -> Iterator[tuple[int, Reply]]:
    """The replies to the questions behind each trunk."""
    targets = list(
        dict.fromkeys(
            (trunk, target.target_ids)
            for trunk, some in enumerate(asked)
            for one in some
            for target in one.targets
        )
    )
    branches = list(dict.fromkeys((trunk, ids[:-1]) for trunk, ids in targets if len(ids) > 1))
    behind = dict(zip(branches, trunks.after(branches), strict=True))
    read: dict[tuple[int, Ids], list[_Reading]] = {}
    best: dict[tuple[int, Ids], int] = {
        (trunk, ()): token for trunk, token in enumerate(trunks.log_probs.argmax(-1).tolist())
    }
    for trunk, ids in targets:
        log_probs = trunks.log_probs[trunk][None]
        if len(ids) > 1:
            log_probs = torch.cat([log_probs, behind[trunk, ids[:-1]]])
        read[trunk, ids] = _readings(log_probs, ids)
        for n, reading in enumerate(read[trunk, ids]):
            best[trunk, ids[:n]] = reading.argmax
    lengths = {
        trunk: max(len(target.target_ids) for one in some for target in one.targets)
        for trunk, some in enumerate(asked)
    }
    answers = _greedy(trunks, best, lengths)
    first = trunks.log_probs.cpu()
    for trunk, some in enumerate(asked):
        for one in some:
            both = [target.target_ids for target in one.targets]
            scores = [_score(t, read[trunk, t], answers[trunk][: len(t)]) for t in both]
            answer = answers[trunk][: max(map(len, both))]
            yield one.number, _reply(lm, scores, answer, first[trunk])


def _greedy(
    trunks: Trunks, best: dict[tuple[int, Ids], int], lengths: Mapping[int, int]
) -> dict[int, Ids]:
    """Greedy answers; `best` has the likeliest token behind what was read already."""
    answers: dict[int, Ids] = dict.fromkeys(lengths, ())
    while going := [trunk for trunk, length in lengths.items() if len(answers[trunk]) < length]:
        unread = [(t, answers[t]) for t in going if (t, answers[t]) not in best]
        for branch, log_probs in zip(unread, trunks.after(unread), strict=True):
            best[branch] = int(log_probs[-1].argmax())
        for trunk in going:
            answers[trunk] += (best[trunk, answers[trunk]],)
    return answers


def _ask_masked(
    lm: LanguageModel, asked: Sequence[_Asked], changed: Changed
) -> Iterator[tuple[int, Reply]]:
    slots = {
        (one.number, which): [
            _Slot(row.ids, one.edit, row.positions[0], row.tokens[0], whole=which == n == 0)
            for n, row in enumerate(lm.rows(target))
        ]
        for one in asked
        for which, target in enumerate(one.targets)
    }
    readings = _read(lm, (slot for some in slots.values() for slot in some), changed)
    best = {slot[:3]: reading.argmax for slot, reading in readings.items()}
    answers = _greedy_masked(lm, asked, best, changed)
    for one in asked:
        scores = [
            _score(
                target.target_ids,
                [readings[slot] for slot in slots[one.number, which]],
                answers[one.number, which],
            )
            for which, target in enumerate(one.targets)
        ]
        first = readings[slots[one.number, 0][0]].log_probs
        assert first is not None
        yield one.number, _reply(lm, scores, answers[one.number, 1], first)


def _greedy_masked(
    lm: LanguageModel,
    asked: Sequence[_Asked],
    best: dict[tuple[Ids, Edit | None, int], int],
    changed: Changed,
) -> dict[tuple[int, int], Ids]:
    """Fill each target's masks left to right, each with its argmax, where `best` has it or not."""
    targets = {(one.number, n): (t, one.edit) for one in asked for n, t in enumerate(one.targets)}
    filled = {key: lm.masked(t.ids, range(*t.target)) for key, (t, _) in targets.items()}
    for step in range(max((len(t.target_ids) for t, _ in targets.values()), default=0)):
        slots = {
            key: _Slot(filled[key], edit, t.target[0] + step, 0)
            for key, (t, edit) in targets.items()
            if len(t.target_ids) > step
        }
        unread = [slot for slot in slots.values() if slot[:3] not in best]
        for slot, reading in _read(lm, unread, changed).items():
            best[slot[:3]] = reading.argmax
        for key, slot in slots.items():
            ids, at = slot.ids, slot.position
            filled[key] = (*ids[:at], best[slot[:3]], *ids[at + 1 :])
    return {key: filled[key][slice(*t.target)] for key, (t, _) in targets.items()}
