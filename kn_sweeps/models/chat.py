"""A query asked through a tokenizer's chat template: as a user's message, answered by the model."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from kn_sweeps.cases import Query

_CONTENT = "\N{OBJECT REPLACEMENT CHARACTER}content\N{OBJECT REPLACEMENT CHARACTER}"


def check_template(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a tokenizer without a template that a message can be put into.

    Args:
        tokenizer: Which.
        name: What its model is called.

    Raises:
        ValueError: If it has none, or its template cannot be used.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"{name}: its tokenizer has no chat template, so model.chat=true cannot be meant; use "
            "model.chat=false, or the checkpoint of an instruct model"
        )
    try:
        _around(tokenizer)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def as_asked(tokenizer: PreTrainedTokenizerBase, query: Query, *, chat: bool) -> tuple[Query, bool]:
    """The query as it is read, and whether all special tokens are in it."""
    asked = in_chat(tokenizer, query) if chat else query
    return asked, asked is not query


def in_chat(tokenizer: PreTrainedTokenizerBase, query: Query) -> Query:
    """The query as the model reads it: in the template, up to where its answer begins.

    The text before the slot is the user's message; the subject is found inside it. A query without
    such a text, which scores whole sentences, stays as it is.
    """
    message = query.prefix.strip()
    if not message:
        return query
    before, after = _around(tokenizer)
    span = None
    if query.subject is not None and query.subject[1] <= len(query.prefix):
        shift = len(before) - (len(query.prefix) - len(query.prefix.lstrip()))
        span = (query.subject[0] + shift, query.subject[1] + shift)
    return Query(before + message + after, "", span)


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What the template puts before and behind a user's message."""
    messages = [{"role": "user", "content": _CONTENT}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program of the checkpoint's
        raise ValueError(f"its chat template cannot be used: {error}") from error
    before, found, after = str(text).partition(_CONTENT)
    if not found or _CONTENT in after:
        raise ValueError("its chat template does not have a user's message once, as it was written")
    return before, after
