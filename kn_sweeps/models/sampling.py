"""Texts sampled from a model itself, causal or masked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from kn_sweeps.models.language_model import Ids, LanguageModel
from kn_sweeps.models.tokenization import start_id
from kn_sweeps.progress.counting import counted


class _Begun(NamedTuple):
    """A row to sample into.

    Attributes:
        ids: Its tokens; a masked LM's masks are among them.
        text: Position of the first token that is text.
        blank: Position of the first token to sample.
    """

    ids: Ids
    text: int
    blank: int


@torch.inference_mode()
def sampled(
    lm: LanguageModel,
    count: int,
    length: int,
    *,
    top_k: int,
    generator: torch.Generator,
    openings: Sequence[str] = (),
) -> list[str]:
    """Sample texts from the model itlm, each token from its `top_k`.

    A causal LM continues its start token, or an opening as it would read a prompt; a masked LM
    fills a row of masks behind it from left to right.

    Args:
        lm: The model.
        count: Number of texts.
        length: Tokens sampled for each, behind its opening.
        top_k: How many of the likeliest tokens are drawn from.
        generator: A CPU generator: the draw does not depend on the device.
        openings: How texts begin: the n-th with the n-th of them, over and over.

    Raises:
        ValueError: If an opening has a token that the tokenizer does not know.
    """
    begun = [_begun(lm, text, length) for text in openings or ("",)]
    starts = [begun[n % len(begun)] for n in range(count)]
    rows = [list(start.ids) for start in starts]
    for step in counted(range(length), "sampled token"):
        places = [start.blank + step for start in starts]
        read = places if lm.kind == "masked" else [at - 1 for at in places]
        batch = lm.batch([tuple(row) for row in rows])
        log_probs = lm.log_probs(batch, range(count), read).cpu()
        log_probs[:, lm.tokenizer.all_special_ids] = -torch.inf
        top = log_probs.topk(top_k)
        drawn = torch.multinomial(top.values.exp(), 1, generator=generator)
        tokens = top.indices.gather(1, drawn)[:, 0].tolist()
        for row, at, token in zip(rows, places, tokens, strict=True):
            row[at : at + 1] = [token]
    texts = lm.tokenizer.batch_decode(
        [row[s.text : s.blank + length] for row, s in zip(rows, starts, strict=True)],
        skip_special_tokens=True,
    )
    return [text.strip() for text in texts]


def _begun(lm: LanguageModel, opening: str, length: int) -> _Begun:
    """A row to sample into, with masks behind the opening where the model fills them."""
    blanks = [lm.tokenizer.mask_token] * length if lm.kind == "masked" else []
    text = " ".join([opening.strip(), *blanks]).strip()
    encoding = lm.tokenizer(text, return_offsets_mapping=True)
    ids: list[int] = list(encoding["input_ids"])
    known = [at for at, (a, b) in enumerate(encoding["offset_mapping"]) if a < b]
    if lm.tokenizer.unk_token_id in [ids[at] for at in known]:
        raise ValueError(
            f"the opening {opening!r} is not in the vocabulary of {lm.name}; choose openings "
            "it knows, or none"
        )
    if lm.kind == "masked":
        return _Begun(tuple(ids), known[0], ids.index(lm.tokenizer.mask_token_id))
    if not known:
        return _Begun((start_id(lm.tokenizer, lm.start_token),), 1, 1)
    # What the tokenizer puts behind a text would end it here.
    ids, first = ids[: known[-1] + 1], known[0]
    if first == 0 and lm.start_token is not None:
        ids, first = [start_id(lm.tokenizer, lm.start_token), *ids], 1
    return _Begun(tuple(ids), first, len(ids))
