"""An evaluation by hand is what a run writes; what a model answers now."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import kn_sweeps as kn
from kn_sweeps.config import build
from kn_sweeps.edits import NeuronScale, load_edits
from kn_sweeps.evaluation.selection import scorable
from kn_sweeps.plans import Plan
from kn_sweeps.records.run_directory import RunDirectory
from kn_sweeps.run import run
from tests.test_config import composed

FACTS = ("dataset=pararel", "dataset.relations=[P36,P101]")
PAIRS = ("dataset=blimp", "dataset.paradigms=[anaphor_gender_agreement]")


def _run(tmp_path: Path, lm: kn.LanguageModel, *overrides: str) -> tuple[Path, list[kn.Case], Any]:
    quiet = ("tracker=none", "attribution_cache_gib=0", f"results_dir={tmp_path}")
    config = composed(*quiet, *overrides)
    dataset = build(config["dataset"])
    loaded = dataset.load(lm.kind, seed=0, limit=config["limit"], editable=True)
    return run(config).directory, scorable(lm, loaded.cases)[0], build(config["method"])


@pytest.mark.parametrize("data", [FACTS, PAIRS], ids=["facts", "pairs"])
def test_a_run_and_the_door_give_the_same_rows_and_metrics(
    tmp_path: Path, tiny: kn.LanguageModel, data: tuple[str, ...]
) -> None:
    quick = ("method=kn", "method.quadrature=riemann", "method.steps=2", "limit=4")
    directory, cases, method = _run(tmp_path, tiny, *data, *quick)
    found = kn.evaluate(tiny, cases, method.plan(tiny, cases))
    expected = pd.read_parquet(directory / "rows.parquet")
    pd.testing.assert_frame_equal(found.rows, expected, check_exact=True)
    summary = RunDirectory(directory).summary()
    assert summary is not None
    metrics = found.metrics()
    assert list(metrics.index) == list(summary["metrics"])
    for name, estimate in summary["metrics"].items():
        for part, value in estimate.items():
            mine = metrics.loc[name, part]
            assert mine == value or (value is None and math.isnan(mine)), (name, part)


def test_edits_of_a_run_give_its_rows_again(tmp_path: Path, tiny: kn.LanguageModel) -> None:
    steps = ("method=rome", "method.steps=3", "limit=4")
    directory, cases, method = _run(tmp_path, tiny, *FACTS, *steps)
    edits = load_edits(directory / "edits.safetensors")
    found = kn.evaluate(tiny, cases, Plan(edits, {case.id: case.id for case in cases}))
    expected = pd.read_parquet(directory / "rows.parquet")
    pd.testing.assert_frame_equal(found.rows, expected, check_exact=True)
    # A run plans its first case alone.
    alone = kn.evaluate(tiny, cases[0], method.plan(tiny, cases[:1])).rows
    pd.testing.assert_frame_equal(alone, expected[: len(alone)], check_exact=True)


def test_an_evaluation_has_its_edit_and_its_damage(
    tiny: kn.LanguageModel, capital: kn.Case
) -> None:
    found = kn.evaluate(tiny, [capital], kn.Rome.for_model(tiny).plan(tiny, [capital]))
    assert list(found.rows["kind"]) == ["edit", "rephrase", "neighbour", "neighbour"]
    assert list(found.rows["post_answer"])[:2] == ["Rome", "Rome"]
    metrics = found.metrics()
    assert metrics.loc["reliability", "value"] == 1
    assert metrics.loc["locality", "n"] == 2
    assert "locality_others" in metrics.index
    shown = repr(found)
    assert "The capital of France is ___" in shown
    assert "edit to replace" in shown


def test_a_plan_says_what_its_edits_are_for(tiny: kn.LanguageModel, capital: kn.Case) -> None:
    for method, intent in (
        (kn.KnowledgeNeurons(neurons=((0, 3),)), "erase"),
        (kn.RandomControl(kn.KnowledgeNeurons(neurons=((0, 3),))), "erase"),
        (kn.KnowledgeNeurons(neurons=((0, 3),), operation="enhance"), "replace"),
        (kn.NoEdit(), "replace"),
    ):
        plan = method.plan(tiny, [capital])
        assert plan.intent == method.intent == intent
        assert set(kn.evaluate(tiny, capital, plan).rows["intent"]) == {intent}


def test_a_single_edit_is_in_effect_for_every_case(
    tiny: kn.LanguageModel, capital: kn.Case
) -> None:
    other = kn.fact("The capital of {} is", "Italy", old="Rome", new="Paris")
    edit = NeuronScale(((0, 67), (0, 492)), 0.0)
    both = kn.evaluate(tiny, [capital, other], edit, intent="erase").rows
    assert list(both["edit"].unique()) == ["edit"]
    assert (both["post_log_prob_old"] != both["pre_log_prob_old"]).all()
    plan = kn.Rome(layer=0, steps=2).plan(tiny, [capital, other])
    assert len(kn.evaluate(tiny, [capital, other], plan.joint()).rows) == len(both)


def test_what_cannot_be_evaluated_is_refused(tiny: kn.LanguageModel, capital: kn.Case) -> None:
    plan = kn.NoEdit().plan(tiny, [capital])
    other = kn.fact("The capital of {} is", "Italy", old="Rome", new="Paris")
    unknown = kn.fact("The capital of {} is", "Italy", old="Rome", new="Xyzzyville")
    for cases, edit, message in (
        ([other], plan, "the plan has no edit for case 'The capital of Italy"),
        ([capital, capital], plan, "two cases are called 'The capital of France"),
        ([], plan, "no case is given"),
        (["The capital of France is"], plan, "expected what kn.fact or kn.pair makes"),
        ([unknown], NeuronScale((), 1.0), "case: the target is not in the tokenizer's vocabulary"),
        ([capital], "rome", "expected an edit, or the plan of a method; got 'rome'"),
    ):
        with pytest.raises(ValueError, match=message):
            kn.evaluate(tiny, cases, edit)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="this plan's edits are to replace; leave it out"):
        kn.evaluate(tiny, [capital], plan, intent="erase")


def test_a_plan_that_failed_says_why_where_it_is_applied(
    tiny: kn.LanguageModel, capital: kn.Case
) -> None:
    bare = dataclasses.replace(capital, edit=dataclasses.replace(capital.edit, query=_no_subject()))
    plan = kn.Rome(layer=0, steps=1).plan(tiny, [bare])
    assert "no edit of" in repr(plan)
    with (
        pytest.raises(ValueError, match="there is no edit: .* has no subject"),
        kn.applied(tiny, plan),
    ):
        pass
    assert list(kn.evaluate(tiny, [bare], plan).rows["kind"]) == ["failed"]
    with pytest.raises(ValueError, match="expected an edit"), kn.applied(tiny, "rome"):  # type: ignore[arg-type]
        pass


def _no_subject() -> Any:
    from kn_sweeps.cases import Query

    return Query("The capital of France is ")


@pytest.mark.parametrize("which", ["tiny", "tiny_bert"])
def test_the_top_is_what_the_model_answers_with_edits_in_effect(
    which: str, request: pytest.FixtureRequest
) -> None:
    lm = request.getfixturevalue(which)
    capital = kn.fact("The capital of {} is ___.", "France", old="Paris", new="Rome")
    before = kn.top(lm, capital)
    assert list(before.index) == [1, 2, 3, 4, 5]
    assert before["probability"].is_monotonic_decreasing
    assert before.loc[1, "answer"] == "old"
    plan = kn.Rome.for_model(lm).plan(lm, [capital])
    with kn.applied(lm, plan):
        during = kn.top(lm, capital, k=2)
    assert during.loc[1, "answer"] == "new"
    rows = kn.evaluate(lm, capital, plan).rows
    assert math.exp(rows["post_log_prob_new"].iloc[0]) == pytest.approx(
        during.loc[1, "probability"], rel=1e-3
    )
    pd.testing.assert_frame_equal(kn.top(lm, capital), before)
    text = kn.top(lm, "The capital of France is ___.", k=3)
    assert list(text.columns) == ["token", "probability"]
    assert text.loc[1, "token"] == "Paris"


def test_the_top_of_an_edit_where_answers_are_read(
    tiny: kn.LanguageModel, capital: kn.Case
) -> None:
    where = NeuronScale(tuple((0, n) for n in range(512)), 0.0, "read")
    with kn.applied(tiny, where):
        changed = kn.top(tiny, capital)
    assert not changed.equals(kn.top(tiny, capital))


@pytest.mark.parametrize(
    ("prompt", "k", "message"),
    [
        ("Paris", 0, "k must be a whole number from 1"),
        (3, 5, "prompt=3: expected a text"),
        ("", 5, "prompt is empty"),
    ],
)
def test_a_top_that_cannot_be_asked_is_refused(
    prompt: Any, k: int, message: str, tiny: kn.LanguageModel
) -> None:
    with pytest.raises(ValueError, match=message):
        kn.top(tiny, prompt, k)


def test_a_pair_goes_through_the_same_door(tiny: kn.LanguageModel) -> None:
    pair = kn.pair(
        "Julia defended herself.",
        "Julia defended himself.",
        trigger="Julia",
        paradigm="anaphor_gender_agreement",
    )
    found = kn.evaluate(tiny, pair, kn.Rome.for_model(tiny).plan(tiny, [pair]))
    assert list(found.rows["kind"]) == ["edit", "sentence"]
    assert {"flip_rate", "effect_size", "pair_accuracy"} <= set(found.metrics().index)
    assert "sentence" in repr(found)
