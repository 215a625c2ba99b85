"""A free answer is what the model's own `generate` says, and ends where a sentence does."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from kn_sweeps.cases import Query
from kn_sweeps.edits import RankOne
from kn_sweeps.interventions import applied_rowwise
from kn_sweeps.models.generating import Prompt, Writing, natural_end, write
from kn_sweeps.models.language_model import LanguageModel
from tests.reference.generating import generated

QUERIES = [Query("The capital of France is "), Query("Ann"), Query("These cats see this cat and ")]


def _edit(lm: LanguageModel) -> RankOne:
    draw = torch.Generator().manual_seed(3)
    u, v = (torch.randn(n, generator=draw) for n in (lm.architecture.d_ff, lm.architecture.d_model))
    return RankOne(1, u, v)


def test_free_answers_equal_generate_one_by_one_under_every_rows_edit(
    any_lm: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edit = _edit(any_lm)
    asked = [Prompt(query, one) for query in QUERIES for one in (None, edit)]
    whole = Writing(12, stops=False)
    if any_lm.kind == "masked":
        with pytest.raises(ValueError, match="is a masked LM: it fills slots"):
            write(any_lm, asked, whole)
        return
    found = write(any_lm, asked, whole, partial(applied_rowwise, any_lm))
    assert found == [
        generated(any_lm, any_lm.encode_open(query).prompt_ids, one, 12) for query, one in asked
    ]
    monkeypatch.setattr(any_lm, "batch_size", 2)
    assert write(any_lm, asked, whole, partial(applied_rowwise, any_lm)) == found


def test_a_text_ends_with_its_sentence_and_at_the_models_length(
    lm_of,  # noqa: ANN001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = lm_of("gpt2")
    (whole,) = write(lm, [Prompt(QUERIES[0])], Writing(12, stops=False))
    (sentence,) = write(lm, [Prompt(QUERIES[0])], Writing(12))
    assert sentence == whole[: natural_end(whole)].strip()
    read = len(lm.encode_open(QUERIES[0]).prompt_ids)
    monkeypatch.setattr(lm.architecture, "max_tokens", read + 2)
    (short,) = write(lm, [Prompt(QUERIES[0])], Writing(12, stops=False))
    assert whole.startswith(short)
    assert len(lm.tokenizer.tokenize(short)) <= 2


def test_a_sampled_text_depends_on_its_prompt_and_seed_alone(lm_of) -> None:  # noqa: ANN001
    lm = lm_of("gpt2")
    prompts = [Prompt(query) for query in QUERIES]
    drawn = Writing(10, stops=False, top_k=5, seed=1)
    found = write(lm, prompts, drawn)
    assert write(lm, prompts[1:], drawn) == found[1:]
    assert write(lm, prompts, Writing(10, stops=False, top_k=5, seed=2)) != found


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Paris. It is", "Paris."),
        ("Paris", None),
        ("Washington D.C. is a city. It", "Washington D.C. is a city."),
        ("St. Louis. The", "St. Louis."),
        ("J. K. Rowling! She", "J. K. Rowling!"),
        ("\n\nRome\nQ:", "Rome"),
        ("3.5 million. Then", "3.5 million."),
        ('He said "no." Then', 'He said "no."'),
        ("Is it? Yes", "Is it?"),
    ],
)
def test_where_a_sentence_ends(text: str, first: str | None) -> None:
    end = natural_end(text)
    assert (None if end is None else text[:end].strip()) == first
