"""The grammar writes what ships, and training reads nothing that is held out."""

import random
from collections import Counter, defaultdict

import pytest

from kn_sweeps.data.sentences import BUNDLED, bundled_pairs, fact_sentences
from kn_sweeps.tiny import grammar
from kn_sweeps.tiny.corpus import (
    held_out_texts,
    is_held_out,
    random_sentence,
    training_facts,
    training_sentence,
)

PARADIGMS = [paradigm.uid for paradigm in grammar.PARADIGMS]


def test_the_grammar_writes_the_shipped_files_byte_for_byte(tmp_path):
    assert {path.stem for path in (BUNDLED / "blimp").glob("*.jsonl")} == set(PARADIGMS)
    for path in grammar.write_bundled(tmp_path):
        assert path.read_bytes() == (BUNDLED / "blimp" / path.name).read_bytes()


@pytest.mark.parametrize("uid", PARADIGMS)
def test_a_paradigm_has_200_distinct_pairs_that_share_contrasts(uid):
    paradigm = next(p for p in grammar.PARADIGMS if p.uid == uid)
    pairs = grammar.bundled_pairs(paradigm)
    assert len({pair.good for pair in pairs}) == 200
    assert min(Counter(pair.combo for pair in pairs).values()) >= 4
    assert min(Counter(pair.combo.good for pair in pairs).values()) >= 8
    assert set(paradigm.combos) <= set(paradigm.all_combos)


def test_spans_of_a_random_pair_are_its_words():
    rng = random.Random(0)
    for paradigm in grammar.PARADIGMS:
        for _ in range(100):
            pair = paradigm.sample(rng)
            assert pair.good[slice(*pair.critical_span)] == pair.combo.good
            assert pair.good[slice(*pair.trigger_span)] == pair.combo.trigger
            assert pair.critical_span != pair.trigger_span


def test_spans_of_a_fact_sentence_are_its_object_and_subject():
    for item in fact_sentences():
        sentence = training_sentence(item)
        assert sentence.text[slice(*sentence.answer)] == item.answer
        assert sentence.text[slice(*sentence.clue)] == item.subject


def test_training_reads_nothing_that_is_held_out():
    rng = random.Random(1)
    assert not {sentence.text for sentence in training_facts()} & held_out_texts()
    assert not {random_sentence(rng).text for _ in range(5000)} & held_out_texts()


def test_the_split_withholds_a_sixth_of_each_fact_and_pattern_and_half_of_the_pairs():
    items = fact_sentences()
    assert 0.15 < sum(is_held_out(item) for item in items) / len(items) < 0.2
    for key in (lambda i: (i.relation, i.subject), lambda i: (i.relation, i.pattern)):
        groups = defaultdict(list)
        for item in items:
            # A sentence that another relation withholds is not read either.
            assert is_held_out(item) == (item.text in held_out_texts())
            groups[key(item)].append(is_held_out(item))
        assert all(0 < sum(flags) <= len(flags) / 4 for flags in groups.values())
    pairs = bundled_pairs()
    assert sum(is_held_out(pair) for pair in pairs) * 2 == len(pairs)
