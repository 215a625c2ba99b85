"""Scores and answers agree with plain transformers code, alone and in batches."""

from __future__ import annotations

import pytest
import torch

from kn_sweeps.cases import Query
from kn_sweeps.models.asking import Question, Sentence, ask, score_sentences
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.sampling import sampled
from kn_sweeps.models.tokenization import UnscorableError
from tests.reference import scoring

QUESTIONS = [
    Question(Query("The capital of France is ", ".", (15, 21)), "Paris", "Rome"),
    Question(Query("The capital of India is ", " .", (15, 20)), "New Delhi", "Lima"),
    Question(Query("Ann sees ", " cat."), "this", "these"),
    Question(
        Query("Ann sees this cat , Bob sees that dog , a b c d , Ann sees "), "New Delhi", "a b c"
    ),
]


def _masks(lm: LanguageModel, query: Query, target: str) -> tuple[torch.Tensor, list[int]]:
    encoded = lm.encode(query, target)
    ids = torch.tensor([encoded.ids])
    positions = list(range(*encoded.target))
    ids[0, positions] = lm.tokenizer.mask_token_id
    return ids, positions


def _reference_log_probs(lm: LanguageModel, query: Query, target: str) -> list[float]:
    encoded = lm.encode(query, target)
    gold = torch.tensor(encoded.target_ids)
    if lm.kind == "causal":
        return scoring.causal_log_prob(lm.model, torch.tensor([encoded.prompt_ids]), gold)
    ids, positions = _masks(lm, query, target)
    return scoring.masked_log_prob(lm.model, ids, positions, gold)


def test_batched_scores_equal_the_reference_one_by_one(any_lm: LanguageModel) -> None:
    replies = ask(any_lm, QUESTIONS)
    for (query, old, new, *_), reply in zip(QUESTIONS, replies, strict=True):
        for target, score in ((old, reply.old), (new, reply.new)):
            expected = _reference_log_probs(any_lm, query, target)
            assert list(score.log_probs) == pytest.approx(expected, abs=1e-5)
            assert score.log_prob == pytest.approx(sum(expected), abs=1e-5)


def test_greedy_answers_equal_the_reference(any_lm: LanguageModel) -> None:
    for query, old, new, *_ in QUESTIONS:
        (reply,) = ask(any_lm, [Question(query, old, new)])
        encoded = any_lm.encode(query, new)
        n = len(encoded.target_ids)
        if any_lm.kind == "causal":
            n = max(n, len(any_lm.encode(query, old).target_ids))
            prompt = torch.tensor([encoded.prompt_ids])
            expected = scoring.causal_greedy(any_lm.model, prompt, n)
        else:
            expected = scoring.masked_greedy(any_lm.model, *_masks(any_lm, query, new))
        text = any_lm.tokenizer.decode(list(expected), skip_special_tokens=True).strip()
        assert reply.answer == text
        found = tuple(expected)[: len(encoded.target_ids)]
        assert reply.new.exact == (found == encoded.target_ids)


def test_padding_and_company_change_nothing(any_lm: LanguageModel) -> None:
    together = ask(any_lm, QUESTIONS)
    for question, reply in zip(QUESTIONS, together, strict=True):
        (alone,) = ask(any_lm, [question])
        assert alone.old.log_prob == pytest.approx(reply.old.log_prob, abs=1e-5)
        assert alone.answer == reply.answer
        torch.testing.assert_close(
            alone.first_log_probs, reply.first_log_probs, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_the_batch_size_changes_nothing(some_lm: LanguageModel, batch_size: int) -> None:
    expected = ask(some_lm, QUESTIONS)
    before, some_lm.batch_size = some_lm.batch_size, batch_size
    try:
        found = ask(some_lm, QUESTIONS)
    finally:
        some_lm.batch_size = before
    for a, b in zip(expected, found, strict=True):
        assert a.new.log_prob == pytest.approx(b.new.log_prob, abs=1e-5)
        assert a.answer == b.answer


def test_a_masked_sentence_scores_its_pseudo_log_likelihood(some_lm: LanguageModel) -> None:
    sentence = "Ann sees this cat ."
    (score,) = score_sentences(some_lm, [Sentence(sentence)])
    encoded = some_lm.encode(Query(""), sentence)
    if some_lm.kind == "causal":
        start = torch.tensor([encoded.prompt_ids])
        gold = torch.tensor(encoded.target_ids)
        expected = sum(scoring.causal_log_prob(some_lm.model, start, gold))
    else:
        ids = torch.tensor([encoded.ids])
        ends = [0, len(encoded.ids) - 1]
        mask = some_lm.tokenizer.mask_token_id
        found = scoring.pseudo_log_likelihood(some_lm.model, ids, mask, ends)
        expected = found if isinstance(found, float) else sum(found)
    assert score.log_prob == pytest.approx(expected, abs=1e-5)


def test_samples_depend_on_the_generator_only(some_lm: LanguageModel) -> None:
    def draw(seed: int) -> list[str]:
        generator = torch.Generator().manual_seed(seed)
        return sampled(some_lm, 4, 6, top_k=5, generator=generator)

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)
    assert all(len(text.split()) >= 4 for text in draw(0))


def test_a_sample_continues_its_opening_as_if_it_stood_alone(some_lm: LanguageModel) -> None:
    def draw(count: int, *openings: str) -> list[str]:
        generator = torch.Generator().manual_seed(0)
        return sampled(some_lm, count, 3, top_k=1, generator=generator, openings=openings)

    short, long = "Bob", "Ann sees this cat"
    # Openings of unlike length share a batch, and the likeliest token leaves nothing to chance.
    assert draw(3, short, long) == [*draw(1, short), *draw(1, long), *draw(1, short)]
    assert all(text.startswith(short) and text != short for text in draw(1, short))


def test_an_opening_is_read_as_a_prompt_is(lm_of) -> None:  # noqa: ANN001
    lm = lm_of("gpt2")
    (text,) = sampled(lm, 1, 1, top_k=1, generator=torch.Generator(), openings=["Ann sees"])
    prompt = lm.encode(Query("Ann sees "), "this").prompt_ids
    batch = lm.batch([prompt])
    log_probs = lm.log_probs(batch, [0], [len(prompt) - 1])[0]
    log_probs[lm.tokenizer.all_special_ids] = -torch.inf
    assert text == "Ann sees " + lm.tokenizer.decode([int(log_probs.argmax())])


def test_an_opening_that_the_tokenizer_does_not_know_is_refused(some_lm: LanguageModel) -> None:
    with pytest.raises(ValueError, match="the opening 'Therefore' is not in the vocabulary"):
        sampled(some_lm, 1, 1, top_k=1, generator=torch.Generator(), openings=["Therefore"])


def test_a_prompt_longer_than_the_model_reads_is_refused(lm_of) -> None:  # noqa: ANN001
    with pytest.raises(UnscorableError, match="longer than the 64 tokens"):
        lm_of("llama").encode(Query("Ann " * 70), "Bob")


def test_the_longest_text_that_is_taken_is_the_longest_that_runs(any_lm: LanguageModel) -> None:
    # RoBERTa's positions begin behind the one for padding: 64 of them are 63 here. ALiBi has none.
    limit = any_lm.architecture.max_tokens
    family = any_lm.architecture.model_type
    roberta = family in ("roberta", "xlm-roberta")
    assert limit == (None if family == "bloom" else 63 if roberta else 64)
    if limit is None:
        return
    any_lm.hidden(any_lm.batch([(7,) * limit]))
    if roberta:
        with pytest.raises((IndexError, RuntimeError)):
            any_lm.hidden(any_lm.batch([(7,) * (limit + 1)]))
    with pytest.raises(UnscorableError, match=f"longer than the {limit} tokens"):
        any_lm.encode(Query("Ann " * limit), "Bob")


def test_a_tokenizer_of_another_model_is_refused(lm_of) -> None:  # noqa: ANN001
    lm = lm_of("gpt2")
    other = type(lm.tokenizer)(tokenizer_object=lm.tokenizer.backend_tokenizer)
    other.add_tokens(["entirely", "other", "words"])
    with pytest.raises(ValueError, match="do not belong together"):
        LanguageModel(lm.model, other, name="mixed")


def test_a_model_in_double_precision_is_read_in_double_precision(any_lm: LanguageModel) -> None:
    replies = ask(any_lm, QUESTIONS)
    # GPT-J casts its own logits to float32; its head does not. Others' attention is in float32.
    single = any_lm.architecture.model_type in ("gptj", "bloom", "gemma2")
    digits = 1e-7 if single else 1e-12
    for (query, old, *_), reply in zip(QUESTIONS, replies, strict=True):
        expected = sum(_reference_log_probs(any_lm, query, old))
        assert reply.old.log_prob == pytest.approx(expected, rel=digits)
        assert reply.first_log_probs.dtype == torch.float64
