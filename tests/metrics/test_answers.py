import math

import numpy as np
import pandas as pd
import pytest

from kn_sweeps.metrics.answers import answered, gate, succeeded
from kn_sweeps.metrics.base import Results, clusters
from kn_sweeps.metrics.reliability import Reliability

SCORERS = ["exact", "argmax", "token", "margin"]


@pytest.mark.parametrize(
    ("scorer", "column"),
    [("exact", "post_exact_new"), ("argmax", "post_argmax_new"), ("token", "post_token_new")],
)
def test_a_fact_is_read_from_the_column_of_its_scorer_alone(row, scorer, column):
    others = {f"post_{s}_new": 0 for s in ("exact", "argmax", "token")}
    rows = pd.DataFrame([row(**others | {column: 1}), row(**others)])
    assert answered(rows, "post", "new", scorer).tolist() == [1, 0]


def test_the_token_scorer_gives_the_share(row):
    rows = pd.DataFrame([row(post_token_new=2 / 3)])
    assert answered(rows, "post", "new", "token").tolist() == [2 / 3]


@pytest.mark.parametrize("scorer", SCORERS)
def test_syntax_is_scored_by_preference_whatever_the_scorer(row, scorer):
    rows = pd.DataFrame(
        [row(task="syntax", post_answer="else", post_margin=m) for m in (2.0, 0.0, -2.0)]
    )
    assert answered(rows, "post", "new", scorer).tolist() == [1, 0, 0]
    assert answered(rows, "post", "old", scorer).tolist() == [0, 0, 1]


def test_a_margin_cannot_tell_one_answer_from_itself(row):
    rows = pd.DataFrame([row(old="Rome", new="Rome", post_margin=0.0)])
    assert np.isnan(answered(rows, "post", "new", "margin")).all()
    assert answered(rows, "post", "new", "exact").tolist() == [1]


def test_erasing_succeeds_on_any_other_answer_and_replacing_only_on_new(row):
    rows = pd.DataFrame([row(post_answer=answer) for answer in ("Paris", "Rome", "Oslo")])
    assert succeeded(rows, "replace", "exact").tolist() == [0, 1, 0]
    assert succeeded(rows, "erase", "exact").tolist() == [0, 1, 1]


@pytest.mark.parametrize("scorer", SCORERS)
def test_there_is_nothing_to_erase_where_the_model_did_not_answer_old(row, scorer):
    rows = pd.DataFrame([row(pre_answer="Oslo", pre_margin=1.0), row()])
    success = succeeded(rows, "erase", scorer)
    assert math.isnan(success[0])
    assert success[1] == 1


def test_the_gate_asks_the_probe_and_its_own_case(row):
    edits = [
        row("e0", case="good"),
        row("e0", case="bad", post_answer="Oslo"),
        row("e1", case="good", post_answer="Oslo"),
    ]
    probes = [
        row("e0", case="good", kind="synonym"),
        row("e0", case="good", kind="synonym", pre_answer="Oslo"),
        row("e0", case="bad", kind="synonym"),
        row("e1", case="good", kind="synonym"),
    ]
    results = Results(pd.DataFrame(edits + probes))
    passed = gate(results.of("synonym"), results, "exact")
    assert passed.tolist() == [True, False, False, False]


def test_without_an_edit_probe_nothing_passes_the_gate(row):
    results = Results(pd.DataFrame([row(kind="synonym")]))
    assert not gate(results.of("synonym"), results, "exact").any()


def test_intents_are_never_averaged_together(row):
    rows = pd.DataFrame([row(intent="replace"), row(intent="erase")])
    with pytest.raises(ValueError, match="share one intent, got erase, replace"):
        Results(rows)


@pytest.mark.parametrize(
    ("answer", "is_it", "has_it"),
    [
        ("Rome", 1, 1),
        ("the ROME.", 1, 1),
        ("“Rome”", 1, 1),
        ("Rome, the capital of Italy.", 0, 1),
        ("The Eternal City!", 1, 1),
        ("Romeo", 0, 0),
        ("", 0, 0),
        ("羅馬", 1, 1),
        ("是羅馬的", 0, 1),
    ],
)
def test_a_free_answer_is_a_target_or_an_alias_or_contains_one(row, answer, is_it, has_it):
    rows = pd.DataFrame([row(post_generated=answer, new_aliases=["Eternal City", "羅馬"])])
    assert answered(rows, "post", "new", "generated").tolist() == [is_it]
    assert answered(rows, "post", "new", "contains").tolist() == [has_it]


def test_free_answers_stand_beside_where_there_are_any(row):
    rows = pd.DataFrame([row(post_generated="Rome, Italy"), row("e1", post_generated="Rome")])
    found = Reliability()(Results(rows))
    assert {name: one.value for name, one in found.items() if "known" not in name} == {
        "reliability": 1,
        "reliability_generated": 0.5,
        "reliability_contains": 1,
    }
    assert "reliability_generated" not in Reliability()(Results(pd.DataFrame([row()])))


def test_a_scorer_of_free_answers_is_refused_where_there_are_none(row):
    with pytest.raises(ValueError, match="this run has none: .* max_answer_tokens=24"):
        Reliability(scorer="generated")(Results(pd.DataFrame([row()])))


def test_edits_that_go_together_pass_the_gate_together_and_are_one_cluster(row):
    rows = [
        row("e0", together="chain"),
        row("e1", together="chain", post_answer="Oslo"),
        row("e2", together="other"),
        row("e3", together="other"),
    ]
    probes = [
        row(edit, together=name, kind="synonym")
        for edit, name in (("e0", "chain"), ("e2", "other"))
    ]
    results = Results(pd.DataFrame(rows + probes))
    assert gate(results.of("synonym"), results, "exact").tolist() == [False, True]
    assert clusters(results.of("edit")).tolist() == ["chain", "chain", "other", "other"]
