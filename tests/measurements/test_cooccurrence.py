"""Co-occurrence: counts as a naive count has them, attributions as the attributor has them."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kn_sweeps.attribution.attributor import Attributor
from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.data.cooccurrence import count_following
from kn_sweeps.edits import NeuronScale
from kn_sweeps.measurements.cooccurrence import CoOccurrence
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.plans import Plan

WORDS = ["this", "that", "cat", "cats", "big", "."]


def naive_count(texts: list[str], first: str, second: str, window: int) -> int:
    """Every position with `first` behind which, before any full stop, `second` is near enough."""
    total = 0
    for text in texts:
        words = text.split()
        for at, word in enumerate(words):
            behind = words[at + 1 : at + 1 + window]
            if "." in behind:
                behind = behind[: behind.index(".")]
            total += word == first and second in behind
    return total


@given(
    st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), max_size=4),
    st.integers(1, 4),
)
def test_it_counts_as_a_naive_count_does(texts: list[str], window: int) -> None:
    found = count_following(texts, ["this", "that"], ["cat", "cats"], window)
    for first in ("this", "that"):
        for second in ("cat", "cats"):
            assert found[first, second] == naive_count(texts, first, second, window)


def test_case_does_not_matter_and_sentences_end() -> None:
    texts = ["These big dogs ran. This dog's bone", "THESE DOGS; these. Dogs"]
    assert count_following(texts, ["These"], ["dogs"], 2) == Counter({("these", "dogs"): 2})
    assert count_following(texts, ["this"], ["dog"], 2) == Counter()


def test_a_window_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="window must be at least 1"):
        count_following([], ["a"], ["b"], 0)
    with pytest.raises(ValueError, match="window must be at least 1"):
        CoOccurrence(window=0)


def _agreement(lm: LanguageModel) -> Case:
    # A masked LM is asked for the determiner, a causal one for the noun.
    if lm.kind == "masked":
        probe = Probe(Query("Ann sees ", " cat.", (10, 13)), "this", "these", "edit")
    else:
        probe = Probe(Query("Ann sees this ", ".", (9, 13)), "cat", "cats", "edit")
    return Case("d/0", "singular", "syntax", probe)


def test_a_record_has_the_count_and_the_edited_neurons_attribution(
    some_lm: LanguageModel, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Bob sees this cat.\nthis a cat and this\ncat this\n")
    case = _agreement(some_lm)
    assert case.edit is not None
    plan = Plan({"e": NeuronScale(((0, 3), (2, 5)), 0.0)}, {case.id: "e"})
    measure = CoOccurrence(texts=str(text), window=2).begin(some_lm, [case], 0)
    (record,) = measure([case], plan, [])
    (attribution,) = Attributor()(some_lm, [some_lm.encode(case.edit.query, case.edit.old)])
    assert (record["first"], record["second"], record["count"]) == ("this", "cat", 2)
    scores = attribution.scores
    assert record["attribution"] == pytest.approx(float(scores[0, 3] + scores[2, 5]))
    assert record["probability"] == pytest.approx(attribution.value)


def test_an_edit_without_neurons_has_no_attribution(some_lm: LanguageModel) -> None:
    case = _agreement(some_lm)
    plan = Plan({"e": NeuronScale((), 1.0)}, {case.id: "e"})
    (record,) = CoOccurrence().begin(some_lm, [case], 0)([case], plan, [])
    assert math.isnan(record["attribution"])


def test_only_pairs_of_single_words_are_counted(some_lm: LanguageModel, tmp_path: Path) -> None:
    fact = Case(
        "f/0",
        "P36",
        "fact",
        Probe(Query("The capital of India is ", ".", (15, 20)), "New Delhi", "Rome", "edit"),
    )
    unasked = Case("s/0", "wh", "syntax", None)
    case = _agreement(some_lm)
    plan = Plan({"e": NeuronScale((), 1.0)}, {"f/0": "e", "s/0": "e", case.id: "e"})
    records = CoOccurrence().begin(some_lm, [fact, unasked, case], 0)(
        [fact, unasked, case], plan, []
    )
    assert [record["case"] for record in records] == [case.id]


def test_without_a_subject_there_is_no_pair(causal_lm: LanguageModel) -> None:
    bare = Case("c", "P36", "fact", Probe(Query("The city of "), "Paris", "Rome", "edit"))
    with pytest.raises(ValueError, match="one word each; no case has both"):
        CoOccurrence().begin(causal_lm, [bare], 0)
