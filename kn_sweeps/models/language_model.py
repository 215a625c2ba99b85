"""One interface to masked and causal language models: score targets and read greedy answers.

Both kinds of model are reduced to rows of token ids with positions to read. A causal LM has one
row per target, whose positions predict the target's tokens given the gold ones before them. A
masked LM has one row per target token: the pieces not yet read are masked, those before are gold
(left to right within the word). Rows are right-padded, so positions need no correction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kn_sweeps.cases import Query
from kn_sweeps.models.architecture import Architecture
from kn_sweeps.models.tokenization import Encoded, UnscorableError, encode, start_id

Ids = tuple[int, ...]
Slot = tuple[Ids, int]


@dataclass(frozen=True)
class Row:
    """One row of input and what is read from it.

    Attributes:
        ids: Input token ids, special tokens included.
        positions: Positions whose predictions are read.
        tokens: The gold token at each of them.
    """

    ids: Ids
    positions: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids and their attention mask (1 for a token, 0 for padding)."""

    ids: Int[Tensor, "batch seq"]
    mask: Int[Tensor, "batch seq"]


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


@dataclass(frozen=True)
class _Reading:
    """One position, read: the argmax, the wanted tokens, and all of it where asked for."""

    argmax: int
    log_probs: Mapping[int, float]
    all_log_probs: Tensor | None


class LanguageModel:
    """A frozen Hugging Face model with its tokenizer.

    Attributes:
        name: What tables call it.
        revision: Which weights these are: a commit or a content hash; empty where nothing says.
        architecture: Verified handles on its parts.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "",
        revision: str = "",
        start_token: str | None = None,
        batch_size: int = 64,
    ) -> None:
        """Freeze `model`, check its architecture and its tokenizer.

        Args:
            model: A masked or causal LM; it is put into evaluation mode.
            tokenizer: Its fast tokenizer.
            name: What tables call it.
            revision: Which weights these are.
            start_token: What every prompt of a causal LM starts with; see `tokenization.encode`.
            batch_size: Rows in one forward pass when scoring.

        Raises:
            ValueError: If the family is unknown, or the tokenizer does not fit.
        """
        if not tokenizer.is_fast:
            raise ValueError(f"{name}: a fast tokenizer is needed (character offsets)")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.model: PreTrainedModel = model.train(False).requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision
        self.start_token = start_token
        self.batch_size = batch_size
        self.architecture = Architecture(self.model)
        self.kind = self.architecture.kind
        rows = int(self.model.get_input_embeddings().weight.shape[0])
        largest = max(tokenizer.get_vocab().values())
        if largest >= rows:
            raise ValueError(
                f"{name}: the tokenizer has token id {largest} and the model {rows} embeddings; "
                "they do not belong together"
            )
        if start_token is not None and start_token not in tokenizer.get_vocab():
            raise ValueError(f"{name}: the start token {start_token!r} is not in the vocabulary")
        if self.kind == "masked" and tokenizer.mask_token_id is None:
            raise ValueError(f"{name}: a masked LM needs a tokenizer with a mask token")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(self.model.device)

    @property
    def is_edited(self) -> bool:
        """Whether hooks change what its MLPs put out."""
        projections = map(self.architecture.mlp_output, range(self.architecture.layers))
        return any(m._forward_hooks or m._forward_pre_hooks for m in projections)

    def encode(self, query: Query, target: str) -> Encoded:
        """Tokenise a query with a target in its slot; see `tokenization.encode`."""
        encoded = encode(self.tokenizer, self.kind, query, target, self.start_token)
        limit = int(getattr(self.model.config, "max_position_embeddings", 0) or 0)
        if limit and len(encoded.ids) > limit:
            raise UnscorableError(
                f"longer than the {limit} tokens the model reads",
                f"{len(encoded.ids)} tokens in {query.text!r}",
            )
        return encoded

    def rows(self, encoded: Encoded) -> list[Row]:
        """The rows whose readings multiply to the target's joint probability."""
        start, stop = encoded.target
        gold = encoded.target_ids
        if self.kind == "causal":
            return [Row(encoded.ids[: stop - 1], tuple(range(start - 1, stop - 1)), gold)]
        return [
            Row(self._masked(encoded.ids, range(at, stop)), (at,), (encoded.ids[at],))
            for at in range(start, stop)
        ]

    def sentence_rows(self, encoded: Encoded) -> list[Row]:
        """Rows that score a whole sentence.

        A causal LM multiplies its conditionals; a masked LM masks one token at a time with all
        others given (pseudo-log-likelihood, Salazar et al. 2020).
        """
        if self.kind == "causal":
            return self.rows(encoded)
        return [
            Row(self._masked(encoded.ids, range(at, at + 1)), (at,), (encoded.ids[at],))
            for at in range(*encoded.target)
        ]

    def batch(self, rows: Sequence[Ids]) -> Batch:
        """Right-pad rows of ids to one length."""
        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        fill = 0 if pad is None else int(pad)
        ids = torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return Batch(ids.to(self.device), mask.to(self.device))

    def hidden(self, batch: Batch) -> Float[Tensor, "batch seq d_model"]:
        """Final hidden states, those the head reads. Differentiable."""
        output = self.architecture.base(input_ids=batch.ids, attention_mask=batch.mask)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def log_probs(
        self, batch: Batch, rows: Sequence[int], positions: Sequence[int]
    ) -> Float[Tensor, "reads vocab"]:
        """Log-probabilities (nats, fp32) at `positions[i]` of row `rows[i]`. Differentiable."""
        hidden = self.hidden(batch)[list(rows), list(positions)]
        return self.architecture.head(hidden).float().log_softmax(-1)

    def score(self, questions: Sequence[tuple[Query, str]]) -> list[TargetScore]:
        """Score one target a question, without a greedy run: `exact` is `argmax`."""
        encoded = [self.encode(query, target) for query, target in questions]
        return self._scores(encoded, [self.rows(one) for one in encoded])

    def score_sentences(self, sentences: Sequence[str]) -> list[TargetScore]:
        """Score whole sentences; see `sentence_rows`."""
        encoded = [self.encode(Query(""), sentence) for sentence in sentences]
        return self._scores(encoded, [self.sentence_rows(one) for one in encoded])

    def ask(self, questions: Sequence[tuple[Query, str, str]]) -> list[Reply]:
        """Ask each (query, old, new): both targets' scores and the greedy answer.

        Args:
            questions: Queries with two targets; they may be equal.

        Returns:
            One reply a question, in order.

        Raises:
            UnscorableError: If a question cannot be tokenised.
        """
        pairs = [(self.encode(q, old), self.encode(q, new)) for q, old, new in questions]
        encoded = [one for pair in pairs for one in pair]
        rows = [self.rows(one) for one in encoded]
        first = {(r[0].ids, r[0].positions[0]) for r in rows[::2]}
        readings = self._read([row for group in rows for row in group], keep=first)
        greedy = self._greedy(encoded, readings)
        replies = []
        for i, (old, new) in enumerate(pairs):
            answers = greedy[2 * i : 2 * i + 2]
            scores = [
                self._score(one, rows[2 * i + j], readings, answers[j] == one.target_ids)
                for j, one in enumerate((old, new))
            ]
            head = rows[2 * i][0]
            kept = readings[head.ids, head.positions[0]].all_log_probs
            assert kept is not None
            answer = max(answers, key=len) if self.kind == "causal" else answers[1]
            replies.append(Reply(scores[0], scores[1], self._text(answer), kept))
        return replies

    def _masked(self, ids: Ids, where: range) -> Ids:
        mask = int(self.tokenizer.mask_token_id)
        return tuple(mask if i in where else token for i, token in enumerate(ids))

    def _text(self, ids: Ids) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def _scores(self, encoded: list[Encoded], rows: list[list[Row]]) -> list[TargetScore]:
        readings = self._read([row for group in rows for row in group])
        return [
            self._score(one, group, readings, None)
            for one, group in zip(encoded, rows, strict=True)
        ]

    @staticmethod
    def _score(
        encoded: Encoded, rows: list[Row], readings: Mapping[Slot, _Reading], exact: bool | None
    ) -> TargetScore:
        read = [
            (readings[row.ids, position], token)
            for row in rows
            for position, token in zip(row.positions, row.tokens, strict=True)
        ]
        hits = tuple(reading.argmax == token for reading, token in read)
        log_probs = tuple(reading.log_probs[token] for reading, token in read)
        return TargetScore(
            encoded.target_ids, log_probs, hits, all(hits) if exact is None else exact
        )

    @torch.inference_mode()
    def _read(self, rows: Sequence[Row], keep: set[Slot] | None = None) -> dict[Slot, _Reading]:
        """Read every position of every row; equal rows are computed once.

        Args:
            rows: What to read.
            keep: Slots whose whole distribution is kept, on the CPU.
        """
        wanted: dict[Ids, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        for row in rows:
            for position, token in zip(row.positions, row.tokens, strict=True):
                wanted[row.ids][position].add(token)
        readings: dict[Slot, _Reading] = {}
        for chunk in self._batches(list(wanted)):
            slots = [(i, p) for i, ids in enumerate(chunk) for p in sorted(wanted[ids])]
            log_probs = self.log_probs(
                self.batch(chunk), [i for i, _ in slots], [p for _, p in slots]
            )
            best = log_probs.argmax(-1).tolist()
            for n, (i, position) in enumerate(slots):
                ids = chunk[i]
                tokens = sorted(wanted[ids][position])
                values = log_probs[n, tokens].tolist()
                whole = log_probs[n].cpu() if keep and (ids, position) in keep else None
                readings[ids, position] = _Reading(
                    best[n], dict(zip(tokens, values, strict=True)), whole
                )
        return readings

    def _batches(self, rows: list[Ids]) -> Iterator[list[Ids]]:
        """Rows of like length together: padding is waste."""
        ordered = sorted(rows, key=lambda ids: (len(ids), ids))
        for start in range(0, len(ordered), self.batch_size):
            yield ordered[start : start + self.batch_size]

    def _greedy(self, encoded: Sequence[Encoded], readings: Mapping[Slot, _Reading]) -> list[Ids]:
        """Greedy answers, each as long as its target."""
        if self.kind == "masked":
            return self._greedy_masked(encoded)
        answers: list[Ids] = [
            (readings[one.prompt_ids + one.target_ids[:-1], one.target[0] - 1].argmax,)
            for one in encoded
        ]
        length = [len(one.target_ids) for one in encoded]
        for step in range(1, max(length, default=0)):
            going = [i for i in range(len(encoded)) if length[i] > step]
            rows = [encoded[i].prompt_ids + answers[i] for i in going]
            best = self._argmax([(ids, len(ids) - 1) for ids in rows])
            for i, token in zip(going, best, strict=True):
                answers[i] += (token,)
        return answers

    def _greedy_masked(self, encoded: Sequence[Encoded]) -> list[Ids]:
        """Fill each target's masks left to right, each with its argmax."""
        filled = [self._masked(one.ids, range(*one.target)) for one in encoded]
        for step in range(max((len(one.target_ids) for one in encoded), default=0)):
            going = [i for i, one in enumerate(encoded) if len(one.target_ids) > step]
            slots = [(filled[i], encoded[i].target[0] + step) for i in going]
            for i, (ids, at), token in zip(going, slots, self._argmax(slots), strict=True):
                filled[i] = (*ids[:at], token, *ids[at + 1 :])
        return [ids[slice(*one.target)] for ids, one in zip(filled, encoded, strict=True)]

    def _argmax(self, slots: Sequence[Slot]) -> list[int]:
        readings = self._read([Row(ids, (position,), (0,)) for ids, position in slots])
        return [readings[slot].argmax for slot in slots]

    @torch.inference_mode()
    def sample(
        self, count: int, length: int, *, top_k: int, generator: torch.Generator
    ) -> list[str]:
        """Sample texts of `length` tokens from the model itself, each token from its `top_k`.

        A causal LM continues from its start token; a masked LM fills a row of masks from left
        to right.

        Args:
            count: Number of texts.
            length: Tokens in each.
            top_k: How many of the likeliest tokens are drawn from.
            generator: A CPU generator: the draw does not depend on the device.
        """
        rows, first = self._blank_rows(count, length)
        for at in range(first, first + length):
            read = at if self.kind == "masked" else at - 1
            batch = self.batch([tuple(row) for row in rows])
            log_probs = self.log_probs(batch, range(count), [read] * count).cpu()
            log_probs[:, self.tokenizer.all_special_ids] = -torch.inf
            top = log_probs.topk(top_k)
            drawn = torch.multinomial(top.values.exp(), 1, generator=generator)
            for row, token in zip(rows, top.indices.gather(1, drawn)[:, 0].tolist(), strict=True):
                row[at : at + 1] = [token]
        return [self._text(tuple(row[first : first + length])) for row in rows]

    def _blank_rows(self, count: int, length: int) -> tuple[list[list[int]], int]:
        """Rows to sample into, and the position of the first sampled token."""
        if self.kind == "causal":
            return [[start_id(self.tokenizer, self.start_token)] for _ in range(count)], 1
        row = list(self.tokenizer(" ".join([self.tokenizer.mask_token] * length))["input_ids"])
        first = row.index(self.tokenizer.mask_token_id)
        return [list(row) for _ in range(count)], first
