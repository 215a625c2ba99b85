"""Determiners: what locates a number is balanced and held apart, and modifiers change one word."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest

from kn_sweeps.cases import Case, LMKind
from kn_sweeps.data.determiners import DETERMINERS, MODIFIERS, Determiners

KINDS: tuple[LMKind, ...] = get_args(LMKind)


def _cases(kind: LMKind, **options: object) -> tuple[Case, ...]:
    dataset = Determiners(**options)  # type: ignore[arg-type]
    return dataset.load(kind, seed=0, limit=None, editable=True).cases


def _determiner(case: Case) -> str:
    assert case.edit is not None
    old = case.edit.old
    return old if old in DETERMINERS else case.edit.query.subject_text.lower()


def test_there_are_24_modifiers() -> None:
    words = [word for group in MODIFIERS.values() for word in group]
    assert len(words) == len(set(words)) == 24


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_is_a_number_and_both_its_determiners_locate_alike(kind: LMKind) -> None:
    cases = _cases(kind, max_seen=5)
    assert {case.source for case in cases} == {"singular", "plural"}
    for case in cases:
        assert DETERMINERS[_determiner(case)] == case.source
        assert len(case.seen) == len(case.seen_answers) == 10
        located = Counter(
            answer if answer in DETERMINERS else query.subject_text.lower()
            for query, answer in zip(case.seen, case.seen_answers, strict=True)
        )
        assert located == dict.fromkeys([w for w, n in DETERMINERS.items() if n == case.source], 5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_sentence_that_locates_judges(kind: LMKind) -> None:
    cases = _cases(kind, by="determiner")
    assert {case.source for case in cases} == set(DETERMINERS)
    seen = {
        (query, answer)
        for case in cases
        for query, answer in zip(case.seen, case.seen_answers, strict=True)
    }
    judged = {(case.edit.query, case.edit.old) for case in cases if case.edit is not None}
    assert not seen & judged


def test_a_masked_lm_is_asked_for_the_modifier() -> None:
    case = _cases("masked")[0]
    assert case.edit is not None
    assert {p.query for p in case.probes} == {case.edit.query}
    assert [p.old for p in case.probes] == [w for words in MODIFIERS.values() for w in words]
    assert {p.kind for p in case.probes} == {"elsewhere"}


def test_a_causal_lm_reads_the_modifier_and_is_asked_for_the_noun() -> None:
    case = _cases("causal")[0]
    assert case.edit is not None
    for probe in case.probes:
        number, word = probe.group.split("/")
        assert word in MODIFIERS[number]
        assert (probe.query.subject_text, probe.old) == (word, case.edit.old)
    own = _determiner(case)
    (same,) = (p for p in case.probes if p.group.endswith(f"/{own}"))
    assert same.query == case.edit.query


def test_a_paradigm_without_demonstratives_is_refused() -> None:
    with pytest.raises(ValueError, match="use determiner_noun_agreement_2"):
        _cases("masked", paradigm="anaphor_gender_agreement")
    with pytest.raises(ValueError, match="unknown paradigm 'wrong'"):
        _cases("masked", paradigm="wrong")
