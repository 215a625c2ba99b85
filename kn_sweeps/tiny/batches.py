"""Training batches of the tiny models: dynamic masking for BERT, packed sentences for GPT-2."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from kn_sweeps.tiny.corpus import Sentence, Span

# How much more an answer counts than another token: most other words cannot be predicted.
ANSWER_WEIGHT = 4.0
POOL = 8


@dataclass(frozen=True)
class Example:
    """One training sequence.

    Attributes:
        ids: Token ids, special tokens included.
        labels: What to predict; for GPT-2, at the position that predicts it.
        weights: Weight of every position in the loss, 0 where there is nothing to predict.
    """

    ids: list[int]
    labels: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Batch:
    """Padded examples of like length."""

    ids: Int[Tensor, "batch seq"]
    attention: Int[Tensor, "batch seq"]
    labels: Int[Tensor, "batch seq"]
    weights: Float[Tensor, "batch seq"]


@dataclass(frozen=True)
class Tokens:
    """A sentence's tokens, without special ones; spans are token positions [start, stop)."""

    ids: tuple[int, ...]
    answer: Span
    clue: Span


class ExampleMaker:
    """Makes examples of one kind of model from a stream of sentences."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, sentences: Iterator[Sentence], rng: random.Random
    ) -> None:
        self.tokenizer = tokenizer
        self.masked = tokenizer.mask_token_id is not None
        self._sentences = sentences
        self._rng = rng
        self._encode = lru_cache(maxsize=16_384)(self._tokens)

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches without end; examples of a pool are sorted by length, to pad little."""
        while True:
            pool = [self.example() for _ in range(size * POOL)]
            pool.sort(key=lambda example: len(example.ids))
            starts = list(range(0, len(pool), size))
            self._rng.shuffle(starts)
            for start in starts:
                yield self._collate(pool[start : start + size])

    def example(self) -> Example:
        """The next example."""
        return self._masked_example() if self.masked else self._causal_example()

    def _next(self) -> Tokens:
        return self._encode(next(self._sentences))

    def _tokens(self, sentence: Sentence) -> Tokens:
        encoding = self.tokenizer(
            sentence.text, add_special_tokens=False, return_offsets_mapping=True
        )
        offsets: list[Span] = encoding["offset_mapping"]
        return Tokens(
            tuple(encoding["input_ids"]),
            _token_span(offsets, sentence.answer),
            _token_span(offsets, sentence.clue),
        )

    def _masked_example(self) -> Example:
        """A sentence, or a third of the time two, with hidden words in each."""
        ids = [self._special("cls")]
        hidden: list[int] = []
        for _ in range(2 if self._rng.random() < 1 / 3 else 1):
            tokens = self._next()
            hidden.extend(len(ids) + position for position in self._hidden(tokens))
            ids.extend(tokens.ids)
        ids.append(self._special("sep"))
        labels = [0] * len(ids)
        weights = [0.0] * len(ids)
        for position in hidden:
            labels[position], weights[position] = ids[position], 1.0
            ids[position] = self._special("mask")
        return Example(ids, labels, weights)

    def _hidden(self, tokens: Tokens) -> list[int]:
        """The answer, at times the clue or random words: what a masked LM has to fill in."""
        draw = self._rng.random()
        if draw >= 0.85:
            length = len(tokens.ids)
            chosen = [position for position in range(length) if self._rng.random() < 0.15]
            return chosen or [self._rng.randrange(length)]
        first, stop = tokens.answer if draw < 0.75 else tokens.clue
        if self._rng.random() < 0.5:
            # An answer is read from left to right, its first tokens known.
            first = self._rng.randrange(first, stop)
        return list(range(first, stop))

    def _causal_example(self) -> Example:
        """One to five sentences after BOS, then EOS."""
        count = self._rng.choices((1, 2, 3, 5), (0.5, 0.27, 0.2, 0.03))[0]
        ids = [self._special("bos")]
        weights: list[float] = []
        for tokens in (self._next() for _ in range(count)):
            ids.extend(tokens.ids)
            known = tokens.answer[0] > tokens.clue[0]
            weights.extend(
                ANSWER_WEIGHT if known and tokens.answer[0] <= i < tokens.answer[1] else 1.0
                for i in range(len(tokens.ids))
            )
        return Example(ids, [*ids[1:], self._special("eos")], [*weights, 1.0])

    def _special(self, name: str) -> int:
        token = getattr(self.tokenizer, f"{name}_token_id")
        assert isinstance(token, int)
        return token

    def _collate(self, examples: list[Example]) -> Batch:
        width = max(len(example.ids) for example in examples)
        pad = self._special("pad")

        def padded(rows: list[list[int]], filler: int) -> Int[Tensor, "batch seq"]:
            return torch.tensor([row + [filler] * (width - len(row)) for row in rows])

        return Batch(
            ids=padded([example.ids for example in examples], pad),
            attention=padded([[1] * len(example.ids) for example in examples], 0),
            labels=padded([example.labels for example in examples], pad),
            weights=torch.tensor(
                [e.weights + [0.0] * (width - len(e.weights)) for e in examples],
                dtype=torch.float32,
            ),
        )


def _token_span(offsets: list[Span], characters: Span) -> Span:
    """Positions of the tokens that lie within the characters [start, end)."""
    start, end = characters
    inside = [i for i, (a, b) in enumerate(offsets) if a >= start and b <= end]
    return inside[0], inside[-1] + 1
