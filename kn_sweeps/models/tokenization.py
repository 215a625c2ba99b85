"""From a query and a target to token ids, with the target's and the subject's positions.

Prompt and target are tokenised together, once, and positions come from character offsets: a
target is never tokenised alone (its first piece would differ), never decoded and encoded again,
and never contains a BOS.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from kn_sweeps.cases import Query
from kn_sweeps.models.architecture import LMKind


class UnscorableError(ValueError):
    """A query and target that this tokenizer cannot put together.

    Attributes:
        reason: What is wrong, the same for all queries with this fault.
    """

    def __init__(self, reason: str, where: str) -> None:
        """Say what is wrong and where."""
        super().__init__(f"{reason}: {where}")
        self.reason = reason


@dataclass(frozen=True)
class Encoded:
    """A query with a target in its slot, as token ids.

    Attributes:
        ids: Token ids with special tokens; for a causal LM they end with the target.
        target: Positions [start, stop) of the target in `ids`; never empty. For a causal LM
            `start` is at least 1: there is always a token that predicts the first.
        subject: Positions [start, stop) of the subject's tokens; None where there is none.
    """

    ids: tuple[int, ...]
    target: tuple[int, int]
    subject: tuple[int, int] | None

    @property
    def target_ids(self) -> tuple[int, ...]:
        """The target's token ids."""
        return self.ids[slice(*self.target)]

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """What a causal LM reads before it answers."""
        return self.ids[: self.target[0]]

    @property
    def subject_last(self) -> int:
        """Position of the subject's last token.

        Raises:
            ValueError: If the query has no subject.
        """
        if self.subject is None:
            raise ValueError("the query has no subject")
        return self.subject[1] - 1


def encode(tokenizer: PreTrainedTokenizerBase, kind: LMKind, query: Query, target: str) -> Encoded:
    """Tokenise `query` with `target` in its slot.

    Args:
        tokenizer: A fast tokenizer (offsets are needed).
        kind: A causal LM gets prefix + target, a masked LM the suffix as well.
        query: The query.
        target: The answer, without surrounding blanks.

    Raises:
        UnscorableError: If the target has no token of its own, a token straddles the slot's
            boundary, the target is unknown to the tokenizer, or a causal LM would answer
            before it reads the subject.
    """
    if not target.strip():
        raise UnscorableError("the target tokenises to nothing", f"{target!r} in {query.text!r}")
    text = query.prefix + target + (query.suffix if kind == "masked" else "")
    encoding = tokenizer(text, return_offsets_mapping=True)
    ids: list[int] = list(encoding["input_ids"])
    spans: list[tuple[int, int]] = [tuple(span) for span in encoding["offset_mapping"]]
    if kind == "causal" and not (spans and spans[0][0] == spans[0][1]) and not query.prefix.strip():
        ids, spans = [start_id(tokenizer), *ids], [(0, 0), *spans]
    slot = (len(query.prefix), len(query.prefix) + len(target))
    found = _tokens_within(spans, slot, text)
    if kind == "causal":
        ids = ids[: found[1]]
        _check_prompt(tokenizer, query, ids[: found[0]])
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in ids[slice(*found)] and tokenizer.unk_token != target:
        raise UnscorableError(
            "the target is not in the tokenizer's vocabulary", f"{target!r} in {query.text!r}"
        )
    return Encoded(tuple(ids), found, _subject_tokens(kind, spans, query, target, text))


def start_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands before the first one: BOS, or EOS for families without one.

    Raises:
        UnscorableError: If the tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise UnscorableError(
        "an empty prompt needs a BOS or EOS token", "the tokenizer has neither of them"
    )


def _tokens_within(
    spans: list[tuple[int, int]], wanted: tuple[int, int], text: str
) -> tuple[int, int]:
    """Positions of the tokens that cover the characters [start, end), and nothing else."""
    start, end = wanted
    covered = [i for i, (a, b) in enumerate(spans) if a < end and b > start and a < b]
    piece = text[start:end]
    if not covered:
        raise UnscorableError("it tokenises to nothing", f"{piece!r} in {text!r}")
    first, last = covered[0], covered[-1]
    # A token may carry the blank before a word, never a letter of it.
    if text[min(spans[first][0], start) : start].strip() or text[end : spans[last][1]].strip():
        raise UnscorableError("a token straddles its boundary", f"{piece!r} in {text!r}")
    return first, last + 1


def _check_prompt(tokenizer: PreTrainedTokenizerBase, query: Query, prompt: list[int]) -> None:
    """A causal LM must read the same prompt whatever the target is."""
    if not prompt:
        raise UnscorableError("nothing stands before the answer", repr(query.text))
    bare = query.prefix.rstrip()
    if bare and list(tokenizer(bare)["input_ids"]) != prompt:
        raise UnscorableError("the prompt tokenises otherwise before a target", repr(bare))


def _subject_tokens(
    kind: LMKind, spans: list[tuple[int, int]], query: Query, target: str, text: str
) -> tuple[int, int] | None:
    if query.subject is None:
        return None
    start, end = query.subject
    if start >= len(query.prefix):
        if kind == "causal":
            raise UnscorableError(
                "a causal LM answers before it reads the subject", repr(query.text)
            )
        start, end = start + len(target), end + len(target)
    return _tokens_within(spans, (start, end), text)
