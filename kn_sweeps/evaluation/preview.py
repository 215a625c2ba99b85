"""The first cases of a run as its model will read them, told without its weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from transformers import PreTrainedTokenizerBase

from kn_sweeps.cases import Case, LMKind, Probe
from kn_sweeps.config import RunConfig
from kn_sweeps.models import checkpoints
from kn_sweeps.models.chat import as_asked
from kn_sweeps.models.tokenization import UnscorableError, encode, encode_open

CASES = 3
"""Cases that are shown."""


def preview(settings: RunConfig) -> Iterator[str]:
    """Lines for people: what is left out, and of the first cases every question, token by token.

    Tokens stand apart by `|`; those of the subject are in brackets, those of the answer in angles.

    Raises:
        ValueError: If the data or the model cannot be had.
    """
    described = settings.model.described()
    folder = settings.model.fetch()
    described = described or settings.model.described()
    assert described is not None
    loaded = settings.dataset.load(
        described.kind, seed=settings.seed, limit=settings.limit, editable=settings.method.changes
    )
    for report in loaded.left_out:
        yield str(report)
        yield from ([f"the data: {report.noted}"] if report.noted else [])
    _, tokenizer = checkpoints.read(folder, torch.device("meta"), "float32")
    yield "as it will be asked, [subject] <answer>:"
    for case in itertools.islice(loaded.cases, CASES):
        yield case.id
        yield from _lines(case, tokenizer, described.kind, settings)


def _lines(
    case: Case, tokenizer: PreTrainedTokenizerBase, kind: LMKind, settings: RunConfig
) -> Iterator[str]:
    for probe in case.all_probes:
        name = probe.kind + f" ({probe.group})" * bool(probe.group)
        if probe.kind == "sentence":
            yield f"  {name}: {probe.old!r} or {probe.new!r}"
            continue
        old = probe.old or "(the model's own answer)"
        change = old if probe.old == probe.new else f"{old} -> {probe.new}"
        answers = f"; {change}" if probe.kind != "continuation" else ""
        try:
            yield f"  {name}: {_tokens(probe, tokenizer, kind, settings)}{answers}"
        except UnscorableError as error:
            yield f"  {name}: left out: {error}"


def _tokens(
    probe: Probe, tokenizer: PreTrainedTokenizerBase, kind: LMKind, settings: RunConfig
) -> str:
    query, templated = as_asked(tokenizer, probe.query, chat=settings.model.chat)
    start, answer = settings.model.start_token, probe.new or probe.old
    if answer:
        encoded = encode(tokenizer, kind, query, answer, start, templated=templated)
        ids, target = encoded.ids, encoded.target
    else:
        encoded = encode_open(tokenizer, kind, query, start, templated=templated)
        ids = encoded.ids if kind == "masked" else encoded.prompt_ids
        target = encoded.target
    marks = [(encoded.subject, "[", "]"), (target, "<", ">")]
    pieces = []
    for place, one in enumerate(ids):
        text = str(tokenizer.decode([one]))
        for span, opening, closing in marks:
            if span is not None and span[0] <= place < span[1]:
                text = f"{opening}{text}{closing}"
        pieces.append(text)
    return "|".join(pieces)
