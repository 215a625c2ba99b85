"""Each metric family on rows whose answer is known by counting."""

import math

import numpy as np
import pandas as pd
import pytest

from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.forgetting import Forgetting
from kn_sweeps.metrics.generality import Generality
from kn_sweeps.metrics.locality import Locality
from kn_sweeps.metrics.preference import Preference
from kn_sweeps.metrics.probability import Probability
from kn_sweeps.metrics.reliability import Reliability
from kn_sweeps.metrics.symmetry import Symmetry
from kn_sweeps.metrics.synonymy import Synonymy

ALL = [Reliability, Generality, Locality, Symmetry, Synonymy, Preference, Probability]


def values(metric, rows):
    return {name: (e.value, e.n) for name, e in metric(Results(rows)).items()}


def everything(row, intent="replace", **given):
    kinds = [("edit", ""), ("rephrase", ""), ("neighbour", "same_relation"), ("synonym", "")]
    kinds += [("reversal", "reversed"), ("reversal", "residue"), ("sentence", "")]
    return pd.DataFrame(
        [
            row(f"e{i}", kind=kind, group=group, intent=intent, **given)
            for i in range(3)
            for kind, group in kinds
        ]
    )


@pytest.mark.parametrize("metric", [*ALL, Forgetting])
def test_no_rows_give_no_numbers(metric):
    assert metric()(Results()) == {}


@pytest.mark.parametrize("metric", ALL)
def test_rows_of_other_kinds_give_no_numbers(metric, row):
    kind = "rephrase" if metric is not Generality else "edit"
    assert metric()(Results(pd.DataFrame([row(kind=kind)]))) == {}


@pytest.mark.parametrize("intent", ["replace", "erase"])
@pytest.mark.parametrize("task", ["fact", "syntax"])
def test_an_edit_that_changes_nothing_is_local_and_does_nothing(row, intent, task):
    same = {"pre_answer": "Paris", "post_answer": "Paris", "pre_margin": -1.5, "post_margin": -1.5}
    same |= {"pre_log_prob_old": -0.5, "post_log_prob_old": -0.5, "kl": 0.0}
    rows = everything(row, intent, task=task, **same)
    found = {name: e for metric in ALL for name, e in metric()(Results(rows)).items()}
    for name in ("locality", "locality_same_relation", "known", "symmetry_stale"):
        assert found[name].value == 1, name
    zero = ["reliability", "generality", "symmetry", "synonymy", "locality_kl"]
    zero += ["probability_change", "log_probability_change"]
    for name in zero + (["flip_rate", "effect_size"] if task == "syntax" else []):
        assert found[name].value == 0, name
    assert found["symmetry_gated"].n == found["synonymy_gated"].n == 0


@pytest.mark.parametrize("metric", ALL)
def test_the_order_of_the_rows_changes_nothing(metric, row):
    generator = np.random.default_rng(0)
    rows = everything(row, task="syntax")
    rows["post_margin"] = generator.normal(size=len(rows))
    one, other = (metric()(Results(r)) for r in (rows, rows.sample(frac=1, random_state=1)))
    assert one.keys() == other.keys()
    for name, estimate in one.items():
        assert other[name].n == estimate.n
        for part in ("value", "low", "high"):
            assert getattr(other[name], part) == pytest.approx(getattr(estimate, part))


def test_reliability_counts_edits_that_answer_new(row):
    rows = pd.DataFrame(
        [row("a"), row("b", post_answer="Oslo"), row("c"), row("d", pre_answer="Oslo")]
    )
    assert values(Reliability(), rows) == {"reliability": (0.75, 4), "known": (0.75, 4)}


def test_reliability_of_erasing_counts_only_what_was_known(row):
    answers = [("Paris", "Paris"), ("Paris", "Oslo"), ("Oslo", "Oslo")]
    rows = pd.DataFrame(
        [
            row(f"e{i}", intent="erase", pre_answer=pre, post_answer=post)
            for i, (pre, post) in enumerate(answers)
        ]
    )
    assert values(Reliability(), rows)["reliability"] == (0.5, 2)


def test_generality_gives_each_edit_one_vote(row):
    many = [row("a", kind="rephrase") for _ in range(3)]
    rows = pd.DataFrame([*many, row("b", kind="rephrase", post_answer="Paris")])
    assert values(Generality(), rows) == {"generality": (0.5, 4)}


def test_locality_of_a_fact_compares_answers_even_wrong_ones(row):
    answers = [("Oslo", "Oslo"), ("Paris", "Oslo"), ("Bern", "Paris")]
    rows = pd.DataFrame(
        [
            row(kind="neighbour", group="same_subject", old="Paris", new="Paris")
            | {"pre_answer": pre, "post_answer": post}
            for pre, post in answers
        ]
    )
    assert values(Locality(), rows)["locality"] == (pytest.approx(1 / 3), 3)


def test_locality_of_syntax_compares_preferences(row):
    margins = [(-1.0, -3.0), (-1.0, 0.5), (2.0, 0.1), (2.0, -2.0)]
    rows = pd.DataFrame(
        [
            row(kind="neighbour", group="other_phenomenon", task="syntax")
            | {"pre_margin": pre, "post_margin": post}
            for pre, post in margins
        ]
    )
    assert values(Locality(), rows)["locality"] == (0.5, 4)


def test_locality_has_a_number_for_each_set_of_neighbours_and_their_mean_kl(row):
    same = {"kind": "neighbour", "pre_answer": "Paris", "post_answer": "Paris"}
    rows = pd.DataFrame(
        [
            row(**same, group="same_relation", kl=0.1),
            row(**same, group="same_relation", kl=0.3),
            row(**same | {"post_answer": "Oslo"}, group="same_subject", kl=math.nan),
        ]
    )
    assert values(Locality(), rows) == {
        "locality": (pytest.approx(2 / 3), 3),
        "locality_same_relation": (1, 2),
        "locality_same_subject": (0, 1),
        "locality_kl": (pytest.approx(0.2), 2),
        "locality_token": (0.5, 3),
    }


def reversals(row, post_reversed, post_residue, intent="replace"):
    """One fact: France's capital Paris -> Rome. Rome was Italy's."""
    yield row(intent=intent)
    asked = {"kind": "reversal", "intent": intent}
    yield row(
        **asked,
        group="reversed",
        old="Italy",
        new="France",
        pre_answer="Italy",
        post_answer=post_reversed,
    )
    yield row(
        **asked,
        group="residue",
        old="France",
        new="France",
        pre_answer="France",
        post_answer=post_residue,
    )


@pytest.mark.parametrize(
    ("post_reversed", "post_residue", "success", "stale", "residue"),
    [
        ("France", "Spain", 1, 0, 0),
        ("Italy", "France", 0, 1, 1),
        ("Spain", "France", 0, 0, 1),
    ],
)
def test_symmetry_keeps_its_outcomes_apart(
    row, post_reversed, post_residue, success, stale, residue
):
    rows = pd.DataFrame(list(reversals(row, post_reversed, post_residue)))
    assert values(Symmetry(), rows) == {
        "symmetry": (success, 1),
        "symmetry_gated": (success, 1),
        "symmetry_stale": (stale, 1),
        "symmetry_residue": (residue, 1),
        "symmetry_residue_gated": (residue, 1),
    }


@pytest.mark.parametrize(("post_residue", "success"), [("Spain", 1), ("France", 0)])
def test_erasing_is_symmetric_where_the_old_object_lets_go_of_the_subject(
    row, post_residue, success
):
    # "Rome is the capital of" must stay Italy: its new answer would be damage, not success.
    rows = pd.DataFrame(list(reversals(row, "Italy", post_residue, intent="erase")))
    found = values(Symmetry(), rows)
    assert found["symmetry"] == found["symmetry_gated"] == (success, 1)
    assert found["symmetry_stale"] == (1, 1)


def test_a_margin_says_nothing_about_residue(row):
    rows = pd.DataFrame(list(reversals(row, "France", "Spain")))
    assert values(Symmetry(scorer="margin"), rows)["symmetry_residue"] == (None, 0)


def test_gating_leaves_out_probes_never_known_and_edits_that_failed(row):
    rows = pd.DataFrame(
        [
            row("known"),
            row("known", kind="synonym"),
            row("unknown"),
            row("unknown", kind="synonym", pre_answer="Oslo", post_answer="Oslo"),
            row("failed", post_answer="Paris"),
            row("failed", kind="synonym", post_answer="Paris"),
        ]
    )
    assert values(Synonymy(), rows) == {
        "synonymy": (pytest.approx(1 / 3), 3),
        "synonymy_gated": (1, 1),
    }


def test_a_flip_counts_either_way_and_its_size_is_the_rise_of_the_good_form(row):
    margins = [(-1.0, 2.0), (1.0, -1.0), (-1.0, -0.5), (-2.0, -6.0)]
    rows = pd.DataFrame(
        [
            row(f"e{i}", task="syntax", pre_margin=pre, post_margin=post)
            for i, (pre, post) in enumerate(margins)
        ]
    )
    assert values(Preference(), rows) == {
        "flip_rate": (0.5, 4),
        "effect_size": (pytest.approx((-3 + 2 - 0.5 + 4) / 4), 4),
    }


def test_facts_have_no_flip_rate(row):
    assert values(Preference(), pd.DataFrame([row()])) == {}


def test_pair_accuracy_prefers_the_good_sentence(row):
    margins = [(-1.0, 1.0), (-1.0, -1.0), (0.0, -1.0), (1.0, 1.0)]
    rows = pd.DataFrame(
        [
            row(kind="sentence", task="syntax", pre_margin=pre, post_margin=post)
            for pre, post in margins
        ]
    )
    assert values(Preference(), rows) == {
        "pair_accuracy": (0.5, 4),
        "pair_accuracy_after": (0.5, 4),
    }


def test_a_relative_change_is_taken_from_the_probability_before(row):
    changes = [(0.5, 0.25), (0.1, 0.4)]
    rows = pd.DataFrame(
        [
            row(f"e{i}", pre_log_prob_old=math.log(pre), post_log_prob_old=math.log(post))
            for i, (pre, post) in enumerate(changes)
        ]
    )
    assert values(Probability(), rows) == {
        "probability_change": (pytest.approx((-0.5 + 3) / 2), 2),
        "log_probability_change": (pytest.approx((math.log(0.5) + math.log(4)) / 2), 2),
    }
    as_published = values(Probability(relative_to="smaller"), rows)
    assert as_published["probability_change"] == (pytest.approx((-0.25 / 0.25 + 3) / 2), 2)


def test_a_probability_too_small_for_a_float_still_has_a_change(row):
    rows = pd.DataFrame([row(pre_log_prob_old=-2000.0, post_log_prob_old=-2000.0 + math.log(2))])
    assert values(Probability(), rows)["probability_change"] == (pytest.approx(1), 1)


def test_forgetting_compares_each_edit_with_itself_at_the_end(row):
    kinds = ("edit", "rephrase", "neighbour")
    right_after = [row(f"e{i}", kind=kind) for i in range(4) for kind in kinds]
    at_the_end = [
        row(f"e{i}", kind=kind, after="all", post_answer="Rome" if i < 1 else "Paris")
        for i in reversed(range(4))
        for kind in kinds
    ]
    found = values(Forgetting(), pd.DataFrame(right_after + at_the_end))
    assert found["forgetting"] == (0.75, 4)
    assert found["reliability_after_all"] == (0.25, 4)
    assert found["generality_after_all"] == (0.25, 4)
    assert found["locality_after_all"] == (0.75, 4)
    # The others read what was asked right after each edit.
    assert values(Reliability(), pd.DataFrame(right_after + at_the_end))["reliability"] == (1, 4)
    assert values(Forgetting(), pd.DataFrame(right_after)) == {}


def test_at_checkpoints_earlier_edits_are_judged_again(row):
    kinds = ("edit", "rephrase", "neighbour", "portability")
    # The first edit never succeeded, so that nothing of it can hold.
    after_edits = [
        row(f"e{i}", kind=kind, post_answer="Rome" if i else "Paris")
        for i in range(4)
        for kind in kinds
    ]
    later = [
        row(f"e{i}", kind=kind, after="checkpoint", made=made, post_answer=answer)
        for made, asked, answers in (
            (2, (0, 1), ("Paris", "Rome")),
            (4, (0, 2, 3), ("Rome", "Rome", "Paris")),
        )
        for i, answer in zip(asked, answers, strict=True)
        for kind in kinds
    ]
    found = values(Forgetting(), pd.DataFrame(after_edits + later))
    assert found["reliability_after_2"] == (0.5, 2)
    assert found["held_after_2"] == (1, 1)
    for name in ("reliability", "generality", "portability"):
        assert found[f"{name}_after_4"] == (pytest.approx(2 / 3), 3)
    assert found["locality_after_4"] == (pytest.approx(1 / 3), 3)
    assert found["held_after_4"] == (0.5, 2)
    assert "reliability_after_all" not in found
