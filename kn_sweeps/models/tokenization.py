"""From a query and a target to token ids, with the target's and the subject's positions.

Prompt and target are tokenised together, once, and positions come from character offsets: a
target is never tokenised alone (its first piece would differ), never decoded and encoded again,
and never contains a BOS.

The prompt is the text before the slot without the blank that ends it; the tokens behind it are the
target's. Most tokenizers put the blank into the target's first piece ("_Paris"). Where they make a
token of it ("_", "1", "9", "9", "8": before digits, some brackets, other scripts), that token is
the target's first. So all answers, and the free greedy one, are read behind the same prompt, and
every answer's probability counts the blank once.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from kn_sweeps.cases import LMKind, Query
from kn_sweeps.mistakes import shortened


class UnscorableError(ValueError):
    """A query and target that this tokenizer cannot put together.

    Attributes:
        reason: What is wrong, the same for all queries with this fault.
    """

    def __init__(self, reason: str, where: str) -> None:
        """Say what is wrong and where."""
        super().__init__(f"{reason}: {shortened(where)}")
        self.reason = reason


@dataclass(frozen=True)
class Encoded:
    """A query with a target in its slot, as token ids.

    Attributes:
        ids: Token ids with special tokens; for a causal LM they end with the target.
        target: Positions [start, stop) of the target in `ids`, with the blank before it where
            that is a token of its own; never empty. For a causal LM `start` is at least 1: there
            is always a token that predicts the first.
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


def encode(
    tokenizer: PreTrainedTokenizerBase,
    kind: LMKind,
    query: Query,
    target: str,
    start_token: str | None = None,
    *,
    templated: bool = False,
) -> Encoded:
    """Tokenise `query` with `target` in its slot.

    Args:
        tokenizer: A fast tokenizer (offsets are needed).
        kind: A causal LM gets prefix + target, a masked LM the suffix as well.
        query: The query.
        target: The answer, without surrounding blanks.
        start_token: What every prompt of a causal LM starts with, where its tokenizer adds
            nothing; None to add BOS, or EOS, to an empty prompt only.
        templated: Whether the query has all special tokens in it (`chat`); none is added then.

    Raises:
        UnscorableError: If the target has no token of its own, a token straddles the slot's
            boundary, the target or the subject is unknown to the tokenizer, or a causal LM
            would answer before it reads the subject.
    """
    if not target.strip():
        raise UnscorableError("the target tokenises to nothing", f"{target!r} in {query.text!r}")
    text = query.prefix + target + (query.suffix if kind == "masked" else "")
    ids, spans, added = _tokens(tokenizer, kind, text, query, start_token, templated)
    slot = (len(query.prefix), len(query.prefix) + len(target))
    first, stop = _tokens_within(spans, slot, text)
    while first > added and spans[first - 1][0] >= len(bare(query.prefix)):
        first -= 1  # a blank that is a token of its own
    found = (first, stop)
    if kind == "causal":
        ids = ids[:stop]
        _check_prompt(tokenizer, query, ids[added:first])
    subject = _subject_tokens(kind, spans, query, target, text)
    _check_known(tokenizer, ids, found, "target", query, target)
    if subject is not None:
        _check_known(tokenizer, ids, subject, "subject", query, query.subject_text)
    return Encoded(tuple(ids), found, subject)


def encode_open(
    tokenizer: PreTrainedTokenizerBase,
    kind: LMKind,
    query: Query,
    start_token: str | None = None,
    *,
    templated: bool = False,
) -> Encoded:
    """Tokenise `query` where it matters what follows, and no answer is given.

    A masked LM gets a mask in the slot. Behind a causal LM's prompt stands a token that nothing
    reads: `target` says where the prompt ends.

    Raises:
        UnscorableError: As `encode`, as far as it is about the prompt.
    """
    if kind == "masked":
        return encode(tokenizer, kind, query, str(tokenizer.mask_token))
    text = bare(query.prefix)
    ids, spans, _ = _tokens(tokenizer, kind, text, query, start_token, templated)
    subject = _subject_tokens(kind, spans, query, "", text)
    if subject is not None:
        _check_known(tokenizer, ids, subject, "subject", query, query.subject_text)
    ids = ids[: max((i for i, (a, b) in enumerate(spans) if a < b), default=0) + 1]  # no EOS
    return Encoded((*ids, ids[-1]), (len(ids), len(ids) + 1), subject)


def _tokens(
    tokenizer: PreTrainedTokenizerBase,
    kind: LMKind,
    text: str,
    query: Query,
    start_token: str | None,
    templated: bool,
) -> tuple[list[int], list[tuple[int, int]], int]:
    """Ids, character offsets, and how many tokens stand before the text: BOS, CLS and the like."""
    if templated:
        encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        return list(encoding["input_ids"]), [tuple(one) for one in encoding["offset_mapping"]], 0
    encoding = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    ids: list[int] = list(encoding["input_ids"])
    spans: list[tuple[int, int]] = [tuple(span) for span in encoding["offset_mapping"]]
    added = [*encoding["special_tokens_mask"], 0].index(0)
    if kind == "causal" and not added and (start_token or not query.prefix.strip()):
        ids, spans, added = [start_id(tokenizer, start_token), *ids], [(0, 0), *spans], 1
    return ids, spans, added


def bare(prefix: str) -> str:
    """A prompt without the blanks that end it; a line that ends stays ended."""
    return prefix.rstrip(" ")


def start_id(tokenizer: PreTrainedTokenizerBase, start_token: str | None = None) -> int:
    """The token that stands before the first one: the one named, BOS, or EOS.

    Raises:
        UnscorableError: If none is named and the tokenizer has neither.
    """
    if start_token is not None:
        token = tokenizer.convert_tokens_to_ids(start_token)
        assert isinstance(token, int)
        return token
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise UnscorableError(
        "an empty prompt needs a BOS or EOS token", "the tokenizer has neither of them"
    )


def _check_known(
    tokenizer: PreTrainedTokenizerBase,
    ids: list[int],
    where: tuple[int, int],
    what: str,
    query: Query,
    text: str,
) -> None:
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in ids[slice(*where)] and tokenizer.unk_token != text:
        raise UnscorableError(
            f"the {what} is not in the tokenizer's vocabulary", f"{text!r} in {query.text!r}"
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
    text = bare(query.prefix)
    own = list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
    if prompt != own:
        raise UnscorableError("the prompt tokenises otherwise before a target", repr(text))


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
