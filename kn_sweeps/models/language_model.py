"""One interface to masked and causal language models.

Both kinds of model are reduced to rows of token ids with positions to read. A causal LM has one
row per target, whose positions predict the target's tokens given the gold ones before them. A
masked LM has one row per target token: the pieces not yet read are masked, those before are gold
(left to right within the word). Rows are right-padded, so positions need no correction.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kn_sweeps.cases import Query
from kn_sweeps.models.architecture import Architecture
from kn_sweeps.models.chat import as_asked, check_template
from kn_sweeps.models.devices import settle_at_home
from kn_sweeps.models.memory import Shape, free_memory, shape_of
from kn_sweeps.models.precision import at_least_float32
from kn_sweeps.models.probing import architectures_of, settle
from kn_sweeps.models.tokenization import Encoded, UnscorableError, encode, encode_open
from kn_sweeps.showing.sheets import Sheet, Shown

Ids = tuple[int, ...]

log = logging.getLogger(__name__)

_SHARE = 0.8
"""Of free memory may be planned for: allocators need some, and counts are not exact."""
_TOKENS = 64
"""Of a row, where rows to be scored are planned."""


@dataclass(frozen=True)
class InputRow:
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


_read: ContextVar[Bool[Tensor, "batch seq"] | None] = ContextVar("_read", default=None)


@contextmanager
def read_where(where: Bool[Tensor, "batch seq"]) -> Iterator[None]:
    """Say where the batches inside the block are read, for edits that act there only."""
    token = _read.set(where)
    try:
        yield
    finally:
        _read.reset(token)


def where_read() -> Bool[Tensor, "batch seq"]:
    """Where the batch that is running is read.

    Raises:
        ValueError: If nobody said.
    """
    where = _read.get()
    if where is None:
        raise ValueError(
            "an edit that acts where answers are read cannot be in effect while something else "
            "is measured; use where=everywhere"
        )
    return where


class LanguageModel(Shown):
    """A frozen Hugging Face model with its tokenizer.

    Attributes:
        name: What tables call it.
        revision: Which weights these are: a commit or a content hash; empty where nothing says.
        architecture: Handles on its parts.
        can_be_stepped: Whether `stepping` gives what the model gives; `laws` finds out.
        device: Where token ids, and all that is read of the model, are; weights may be elsewhere.
        context: What stands before every prompt, for an edit in context; `applied` sets it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "",
        revision: str = "",
        start_token: str | None = None,
        chat: bool = False,
        batch_size: int = 64,
    ) -> None:
        """Freeze `model`, check its tokenizer, its architecture and that it keeps the `laws`.

        Args:
            model: A masked or causal LM, of a family in `FAMILIES`; it is put into evaluation mode.
            tokenizer: Its fast tokenizer.
            name: What tables call it; empty for the name it was loaded by, or its family's.
            revision: Which weights these are; nothing is cached of a model that does not say.
            start_token: What every prompt of a causal LM starts with; None for the tokenizer's own
                way, see `tokenization.encode`.
            chat: Whether a causal LM is asked through its tokenizer's chat template.
            batch_size: Rows in one forward pass when scoring.

        Raises:
            ValueError: If the family is unknown, the tokenizer does not fit, or a law is broken.
        """
        if not isinstance(model, PreTrainedModel):
            raise ValueError(f"expected a model of transformers, got {type(model).__name__}")
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ValueError(
                f"expected a tokenizer of transformers, got {type(tokenizer).__name__}"
            )
        name = name or Path(model.name_or_path or "").name or str(model.config.model_type)
        if not tokenizer.is_fast:
            raise ValueError(f"{name}: a fast tokenizer is needed (character offsets)")
        self.model: PreTrainedModel = model.train(False).requires_grad_(False)
        self.device = settle_at_home(self.model)
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision
        self.start_token = start_token
        self.chat = chat
        self.batch_size = batch_size
        ways = architectures_of(self.model)
        self.architecture: Architecture = ways[0][1]
        self.kind = self.architecture.kind
        self.can_be_stepped = False
        self.context = ""
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
        if chat and self.kind == "masked":
            raise ValueError(f"{name} is a masked LM: it does not chat; use model.chat=false")
        if chat:
            check_template(tokenizer, name)
        settle(self, ways)

    def sheet(self) -> Sheet:
        """Its name, and what tells it from others."""
        has = self.architecture
        lines = [
            ("family", f"{has.model_type} ({self.kind})"),
            ("layers", f"{has.layers}, of {has.d_ff} neurons each"),
            ("dtype", str(self.model.dtype).removeprefix("torch.")),
            ("device", str(self.device)),
            *([("start token", self.start_token)] if self.start_token else []),
            *([("asked", "through its chat template")] if self.chat else []),
        ]
        return Sheet(f"language model {self.name}", lines)

    @property
    def batch_size(self) -> int:
        """Rows in one forward pass when scoring; setting it forgets that memory ran out."""
        return self.fitting(self._batch_size)

    @batch_size.setter
    def batch_size(self, rows: int) -> None:
        if rows < 1:
            raise ValueError(f"batch_size must be at least 1, got {rows}")
        self._batch_size, self._halvings = rows, 0

    @cached_property
    def shape(self) -> Shape:
        """What decides how much memory it needs."""
        return shape_of(self.model, self.architecture)

    def fitting(self, rows: int, each: int = 0) -> int:
        """How many rows to compute at once where `rows` would do, halved until they fit.

        Args:
            rows: As many as would do.
            each: What a row is counted to need, in bytes: where less memory is free than that,
                they are halved. After memory ran out they are halved at any rate.
        """
        fit = max(1, rows >> self._halvings)
        free = free_memory(self.device) if each else None
        while free is not None and fit > 1 and fit * each > _SHARE * free:
            fit //= 2
        if fit < rows >> self._halvings:
            log.info(
                "%d rows at once instead of %d: each needs %.0f MiB, and %.1f GiB are free",
                *(fit, rows, each / 2**20, (free or 0) / 2**30),
            )
        return fit

    def plan_batches(self) -> None:
        """Score in as many rows at once as fit into free memory, at most `batch_size`."""
        each = self.shape.scoring(1, _TOKENS)
        self.batch_size = self.fitting(self._batch_size, each)

    def halve(self) -> None:
        """Compute half as many rows at once from here on."""
        self._halvings += 1

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a text: the tokenizer's own first, then those of its generation."""
        told = getattr(self.model.generation_config, "eos_token_id", None)
        every = [self.tokenizer.eos_token_id, *(told if isinstance(told, list) else [told])]
        return tuple(dict.fromkeys(int(one) for one in every if one is not None))

    @property
    def is_edited(self) -> bool:
        """Whether hooks change what its MLPs put out, or a text stands before prompts."""
        projections = map(self.architecture.mlp_output, range(self.architecture.layers))
        hooked = any(m._forward_hooks or m._forward_pre_hooks for m in projections)
        return hooked or bool(self.context)

    def encode(self, query: Query, target: str, context: str = "") -> Encoded:
        """Tokenise a query with a target in its slot; see `tokenization.encode`.

        Args:
            query: The query.
            target: The answer.
            context: A text that stands before the query, behind the model's own.
        """
        asked, templated = self._asked(query, context)
        kind, start = self.kind, self.start_token
        encoded = encode(self.tokenizer, kind, asked, target, start, templated=templated)
        return self._short_enough(asked, encoded)

    def encode_open(self, query: Query, context: str = "") -> Encoded:
        """Tokenise a query without an answer; see `encode` and `tokenization.encode_open`."""
        asked, templated = self._asked(query, context)
        kind, start = self.kind, self.start_token
        encoded = encode_open(self.tokenizer, kind, asked, start, templated=templated)
        return self._short_enough(asked, encoded)

    def _asked(self, query: Query, context: str) -> tuple[Query, bool]:
        """The query as it is read, and whether all special tokens are in it.

        Whole sentences, whose query is empty, are no answers to a message: no chat template.
        """
        chat = self.chat and bool(query.prefix.strip())
        return as_asked(self.tokenizer, query.after(self.context + context), chat=chat)

    def ended(self, encoded: Encoded) -> Encoded:
        """A causal LM's target with the token that ends a text, as what it should answer.

        Raises:
            UnscorableError: If nothing says which that is, or the model is a masked one.
        """
        if not self.ends or self.kind == "masked":
            raise UnscorableError("no token ends an answer", f"of {self.name}")
        start, stop = encoded.target
        return Encoded((*encoded.ids, self.ends[0]), (start, stop + 1), encoded.subject)

    def _short_enough(self, query: Query, encoded: Encoded) -> Encoded:
        limit = self.architecture.max_tokens
        if limit and len(encoded.ids) > limit:
            raise UnscorableError(
                f"longer than the {limit} tokens the model reads",
                f"{len(encoded.ids)} tokens in {query.text!r}",
            )
        return encoded

    def rows(self, encoded: Encoded) -> list[InputRow]:
        """The rows whose readings multiply to the target's joint probability."""
        start, stop = encoded.target
        gold = encoded.target_ids
        if self.kind == "causal":
            return [InputRow(encoded.ids[: stop - 1], tuple(range(start - 1, stop - 1)), gold)]
        return [
            InputRow(self.masked(encoded.ids, range(at, stop)), (at,), (encoded.ids[at],))
            for at in range(start, stop)
        ]

    def sentence_rows(self, encoded: Encoded) -> list[InputRow]:
        """Rows that score a whole sentence.

        A causal LM multiplies its conditionals; a masked LM masks one token at a time with all
        others given (pseudo-log-likelihood, Salazar et al. 2020).
        """
        if self.kind == "causal":
            return self.rows(encoded)
        return [
            InputRow(self.masked(encoded.ids, range(at, at + 1)), (at,), (encoded.ids[at],))
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
        """Log-probabilities at `positions[i]` of row `rows[i]`; see `predicted`. Differentiable."""
        where = torch.zeros_like(batch.mask, dtype=torch.bool)
        where[list(rows), list(positions)] = True
        with read_where(where):
            hidden = self.hidden(batch)[list(rows), list(positions)]
        return self.predicted(hidden)

    def predicted(self, hidden: Float[Tensor, "reads d_model"]) -> Float[Tensor, "reads vocab"]:
        """Log-probabilities (nats) of the next tokens, from final hidden states. Differentiable.

        In single precision or better: half precision has no digits left for the sum over a
        vocabulary.
        """
        return at_least_float32(self.architecture.head(hidden)).log_softmax(-1)

    def masked(self, ids: Ids, where: range) -> Ids:
        """`ids` with masks at the positions `where`."""
        mask = int(self.tokenizer.mask_token_id)
        return tuple(mask if i in where else token for i, token in enumerate(ids))
