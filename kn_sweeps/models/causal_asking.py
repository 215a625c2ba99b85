"""Ask a causal LM: each prompt is read once, and its keys and values serve all that follows it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from kn_sweeps.edits import Edit
from kn_sweeps.models.language_model import Ids, LanguageModel, read_where
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
            both = [target.target_ids for target in one.targets]
            scores = [score(t, read[trunk, t], answers[trunk][: len(t)]) for t in both]
            answer = answers[trunk][: max(map(len, both))]
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
