"""Ask a causal LM: each prompt is read once, and its keys and values serve all that follows it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from kn_sweeps.edits import Edit
from kn_sweeps.models.language_model import Batch, Ids, LanguageModel, read_where
from kn_sweeps.models.reading import (
    Asked,
    Changed,
    Reading,
    Reply,
    batches,
    readings_of,
    reply,
    score,
)
from kn_sweeps.progress.counting import counted
from kn_sweeps.progress.interruption import check

_Heads = Float[Tensor, "batch heads seq head"]
Kept = list[tuple[_Heads, _Heads]]
"""The keys and values of each layer."""


class Trunks:
    """Prompts of a causal LM, each read once under its edit.

    Attributes:
        log_probs: Of the token after each, on the model's device.
        edits: Under which each was read.
        mask: 1 for its tokens, which stand last, 0 for the padding before them.
        kept: Their keys and values.
    """

    def __init__(
        self, lm: LanguageModel, rows: Sequence[tuple[Ids, Edit | None]], changed: Changed
    ) -> None:
        """Read the prompts."""
        self._lm, self._changed = lm, changed
        self.edits = [edit for _, edit in rows]
        batch, cache = lm.batch([ids for ids, _ in rows]), DynamicCache()
        last = batch.mask.sum(1) - 1
        every = torch.arange(len(rows), device=lm.device)
        where = torch.zeros_like(batch.mask, dtype=torch.bool)
        where[every, last] = True
        with changed(self.edits), read_where(where):
            output = lm.architecture.base(
                input_ids=batch.ids, attention_mask=batch.mask, past_key_values=cache
            )
        self.log_probs = lm.predicted(output.last_hidden_state[every, last])
        self.mask = batch.mask.flip(1)
        self.kept: Kept = [
            (_beside(keys, batch.mask), _beside(values, batch.mask)) for keys, values in _of(cache)
        ]

    def after(self, branches: Sequence[tuple[int, Ids]]) -> list[Float[Tensor, "tokens vocab"]]:
        """Log-probabilities behind every token of each (prompt, what follows it)."""
        found: list[Tensor] = []
        for start in range(0, len(branches), self._lm.batch_size):
            check()
            found += self._after(branches[start : start + self._lm.batch_size])
        return found

    def _after(self, branches: Sequence[tuple[int, Ids]]) -> list[Tensor]:
        lm, trunks = self._lm, [trunk for trunk, _ in branches]
        batch = lm.batch([ids for _, ids in branches])
        hidden, _ = read_behind(
            lm,
            batch,
            self.mask[trunks],
            [(keys[trunks], values[trunks]) for keys, values in self.kept],
            self._changed([self.edits[trunk] for trunk in trunks]),
        )
        sizes = [len(ids) for _, ids in branches]
        rows = [i for i, size in enumerate(sizes) for _ in range(size)]
        columns = [j for size in sizes for j in range(size)]
        return list(lm.predicted(hidden[rows, columns]).split(sizes))


def read_behind(
    lm: LanguageModel,
    batch: Batch,
    mask: Int[Tensor, "batch before"],
    kept: Kept,
    edited: AbstractContextManager[None],
) -> tuple[Float[Tensor, "batch seq d_model"], Kept]:
    """Read tokens behind others that were read before.

    Args:
        lm: The model.
        batch: The tokens.
        mask: Which of those before them are tokens; padding stands first.
        kept: The keys and values of those before; not changed.
        edited: Puts the rows' edits into effect.

    Returns:
        Final hidden states, and the keys and values of all tokens.
    """
    steps = torch.arange(batch.ids.shape[1], device=lm.device)
    cache = DynamicCache(kept)
    with edited, read_where(batch.mask.bool()):
        output = lm.architecture.base(
            input_ids=batch.ids,
            attention_mask=torch.cat([mask, batch.mask], 1),
            position_ids=mask.sum(1)[:, None] + steps,
            past_key_values=cache,
        )
    return output.last_hidden_state, _of(cache)


def _of(cache: DynamicCache) -> Kept:
    # Plain layers: the cache was made without a config.
    return [(one.keys, one.values) for one in cache.layers]  # type: ignore[union-attr, misc]


def _beside(
    x: Float[Tensor, "batch heads seq head"], mask: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch heads seq head"]:
    """Padding moved from the end to the front, so that what follows stands next to the prompt.

    Between them it would count where a model measures distance by place: in a sliding window, or
    with ALiBi.
    """
    mask = mask.to(x.device)  # that of the layer
    steps = torch.arange(mask.shape[1], device=x.device)
    places = (steps - (mask == 0).sum(1, keepdim=True)).clamp(min=0)
    return x.gather(2, places[:, None, :, None].expand_as(x))


def ask_causal(
    lm: LanguageModel, asked: Sequence[Asked], changed: Changed
) -> Iterator[tuple[int, Reply]]:
    """Every question's number and reply."""
    by_prompt: dict[tuple[Ids, Edit | None], list[Asked]] = defaultdict(list)
    for one in asked:
        by_prompt[one.targets[0].prompt_ids, one.edit].append(one)
    for rows in counted(list(batches(by_prompt, lm.batch_size)), "batch of prompts"):
        trunks = Trunks(lm, rows, changed)
        yield from _replies(lm, trunks, [by_prompt[row] for row in rows])


def _replies(
    lm: LanguageModel, trunks: Trunks, asked: Sequence[Sequence[Asked]]
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
    read: dict[tuple[int, Ids], list[Reading]] = {}
    best: dict[tuple[int, Ids], int] = {
        (trunk, ()): token for trunk, token in enumerate(trunks.log_probs.argmax(-1).tolist())
    }
    for trunk, ids in targets:
        log_probs = trunks.log_probs[trunk][None]
        if len(ids) > 1:
            log_probs = torch.cat([log_probs, behind[trunk, ids[:-1]]])
        read[trunk, ids] = readings_of(log_probs, ids)
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
            every = [target.target_ids for target in one.targets]
            scores = [score(t, read[trunk, t], answers[trunk][: len(t)]) for t in every]
            answer = answers[trunk][: max(map(len, every[:2]))]
            yield one.number, reply(lm, scores, answer, first[trunk])


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
