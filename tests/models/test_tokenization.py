"""Targets keep their place, whatever stands around them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from kn_sweeps.cases import Query
from kn_sweeps.models.tokenization import UnscorableError, encode
from tests.conftest import WORDS, word_tokenizer
from tests.reference.tokenizers import KINDS

TOKENIZERS = {kind: word_tokenizer(kind) for kind in ("causal", "masked")}
plain_words = st.sampled_from([word for word in WORDS if word.isalpha()])
texts = st.lists(plain_words, min_size=1, max_size=5).map(" ".join)


@given(st.sampled_from(["causal", "masked"]), texts, texts, texts, texts)
def test_target_and_subject_are_found_again(
    kind: str, before: str, subject: str, target: str, after: str
) -> None:
    tokenizer = TOKENIZERS[kind]
    start = len(before) + 1
    query = Query(f"{before} {subject} ", f" {after}", (start, start + len(subject)))
    encoded = encode(tokenizer, kind, query, target)
    assert tokenizer.decode(encoded.target_ids) == target
    assert tokenizer.decode(encoded.ids[slice(*encoded.subject)]) == subject
    assert encoded.subject_last == encoded.subject[1] - 1
    assert encoded.ids.count(tokenizer.bos_token_id) == 1


@given(texts, texts, texts)
def test_a_subject_after_the_slot_moves_with_the_target(
    before: str, subject: str, target: str
) -> None:
    query = Query(f"{before} ", f" {subject} .", (len(before) + 2, len(before) + 2 + len(subject)))
    encoded = encode(TOKENIZERS["masked"], "masked", query, target)
    assert TOKENIZERS["masked"].decode(encoded.ids[slice(*encoded.subject)]) == subject
    with pytest.raises(UnscorableError, match="answers before it reads the subject"):
        encode(TOKENIZERS["causal"], "causal", query, target)


@given(texts, texts, texts)
def test_the_prompt_does_not_depend_on_the_target(before: str, old: str, new: str) -> None:
    query = Query(f"{before} ")
    one, other = (encode(TOKENIZERS["causal"], "causal", query, t) for t in (old, new))
    assert one.prompt_ids == other.prompt_ids


def test_an_empty_prompt_starts_with_bos() -> None:
    encoded = encode(TOKENIZERS["causal"], "causal", Query(""), "Ann sees Bob .")
    assert encoded.prompt_ids == (TOKENIZERS["causal"].bos_token_id,)


@pytest.mark.parametrize(
    ("query", "target", "message"),
    [
        (Query("Ann sees "), " ", "tokenises to nothing"),
        (Query("Ann sees "), "", "tokenises to nothing"),
        (Query("Ann sees "), "zebra", "not in the tokenizer's vocabulary: 'zebra'"),
        (Query("Zorro sees ", "", (0, 5)), "Bob", "subject is not in the tokenizer's vocab"),
        (Query("The ca"), "t", "straddles its boundary"),
    ],
)
def test_what_cannot_be_put_together_is_named(query: Query, target: str, message: str) -> None:
    with pytest.raises(UnscorableError, match=message):
        encode(TOKENIZERS["causal"], "causal", query, target)


@pytest.mark.parametrize("span", [(3, 3), (-1, 2), (5, 40), (8, 12)])
def test_a_subject_outside_its_prompt_is_refused(span: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must lie wholly before or wholly after the answer slot"):
        Query("Ann sees  ", " Bob.", span)


def test_a_subject_token_beyond_the_subject_is_refused() -> None:
    with pytest.raises(UnscorableError, match="straddles"):
        encode(TOKENIZERS["causal"], "causal", Query("Paris is ", "", (0, 3)), "Rome")


def test_a_start_token_stands_before_every_prompt_and_only_once() -> None:
    tokenizer = word_tokenizer("causal")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    for query in (Query(""), Query("Ann sees ", "", (0, 3))):
        encoded = encode(tokenizer, "causal", query, "Bob", "[SEP]")
        assert encoded.ids[0] == tokenizer.get_vocab()["[SEP]"]
        assert tokenizer.decode(encoded.target_ids) == "Bob"
        bos = encode(TOKENIZERS["causal"], "causal", query, "Bob", "[SEP]")
        assert bos.ids[0] == tokenizer.bos_token_id
        assert bos.ids[1:] == encoded.ids[1:]
        assert bos.subject == encoded.subject


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("prefix", "answers"),
    [
        ("The town was founded in ", ("Paris", "1998", "7", "(Rome)", "Москве", "12 Rome")),
        ("Город основан в ", ("Paris", "1998", "Москве")),
        ("Rome (see ", ("1998)", "Paris)")),
        ("", ("The town", "1998 was", "Город")),
    ],
)
def test_every_answer_is_read_behind_the_same_prompt(
    kind: str, prefix: str, answers: tuple[str, ...]
) -> None:
    tokenizer = KINDS[kind]()
    joint = [
        tokenizer(prefix + answer, add_special_tokens=False)["input_ids"] for answer in answers
    ]
    encoded = [encode(tokenizer, "causal", Query(prefix), answer) for answer in answers]
    assert len({one.prompt_ids for one in encoded}) == 1
    assert encoded[0].prompt_ids
    for answer, ids, one in zip(answers, joint, encoded, strict=True):
        assert one.ids[-len(ids) :] == tuple(ids)
        assert tokenizer.decode(one.target_ids).strip() == answer
        assert set(one.ids[: -len(ids)]) <= {tokenizer.bos_token_id}


@pytest.mark.parametrize("kind", KINDS)
def test_the_blank_before_a_number_is_the_answers(kind: str) -> None:
    tokenizer = KINDS[kind]()
    encoded = encode(tokenizer, "causal", Query("The town was founded in "), "1998")
    pieces = tokenizer.convert_ids_to_tokens(list(encoded.target_ids))
    assert pieces[0] in ("\u0120", "\u2581")
    assert encode(tokenizer, "causal", Query("Rome (see"), "1998").target_ids[0] != pieces[0]


def test_a_masked_lm_fills_the_blank_before_a_number_too() -> None:
    tokenizer = KINDS["SentencePiece"]()
    query = Query("The town was founded in ", " and Rome", (4, 8))
    year, town = (encode(tokenizer, "masked", query, answer) for answer in ("1998", "Paris"))
    assert year.target[0] == town.target[0]
    assert tokenizer.decode(year.target_ids).strip() == "1998"
    assert year.ids[year.target[1] :] == town.ids[town.target[1] :]
    assert year.subject == town.subject
