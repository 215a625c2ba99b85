"""Rows say what plain scoring says, and only what an edit changed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.edits import NeuronScale, RankOne
from kn_sweeps.evaluation.evaluate import Freely, evaluate
from kn_sweeps.evaluation.own_answers import with_own_answers
from kn_sweeps.evaluation.selection import scorable
from kn_sweeps.interventions import applied
from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.fluency import Fluency, entropy
from kn_sweeps.models.asking import Question, Sentence, ask, score_sentences
from kn_sweeps.models.generating import Prompt, Writing, write
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.plans import Plan
from kn_sweeps.row import rows_frame

QUERY = Query("The capital of France is ", ".", (15, 21))
OTHER = Query("The capital of India is ", ".", (15, 20))
FACT = Case(
    "f0",
    "P36",
    "fact",
    Probe(QUERY, "Paris", "Rome", "edit"),
    (QUERY,),
    (Probe(OTHER, "New Delhi", "New Delhi", "neighbour", "same_relation"),),
)
PAIR = Case(
    "s0",
    "dna",
    "syntax",
    Probe(Query("Ann sees this "), "cat", "cats", "edit"),
    (),
    (Probe(Query(""), "Ann sees this cat .", "Ann sees this cats .", "sentence"),),
)


def _plan(lm: LanguageModel) -> Plan:
    draw = torch.Generator().manual_seed(1)
    sizes = (lm.architecture.d_ff, lm.architecture.d_model)
    u, v = (torch.randn(n, generator=draw) for n in sizes)
    edits = {"a": RankOne(1, u, v), "b": NeuronScale((), 1.0)}
    return Plan(edits, {"f0": "a", "s0": "b"})


def test_a_row_repeats_what_asking_by_hand_says(some_lm: LanguageModel) -> None:
    plan = _plan(some_lm)
    rows = evaluate(some_lm, [FACT, PAIR], plan, "replace")
    assert [(row["case"], row["probe"], row["kind"]) for row in rows] == [
        *(("f0", 0, "edit"), ("f0", 1, "neighbour"), ("s0", 0, "edit"), ("s0", 1, "sentence")),
    ]
    (pre,) = ask(some_lm, [Question(QUERY, "Paris", "Rome")])
    with applied(some_lm, plan.edits["a"]):
        (post,) = ask(some_lm, [Question(QUERY, "Paris", "Rome")])
    row = rows[0]
    for time, reply in (("pre", pre), ("post", post)):
        assert row[f"{time}_log_prob_old"] == pytest.approx(reply.old.log_prob, abs=1e-5)
        assert row[f"{time}_log_prob_new"] == pytest.approx(reply.new.log_prob, abs=1e-5)
        margin = reply.new.log_prob - reply.old.log_prob
        assert row[f"{time}_margin"] == pytest.approx(margin, abs=1e-5)
        assert row[f"{time}_answer"] == reply.answer
    p, q = pre.first_log_probs, post.first_log_probs
    assert row["kl"] == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-5)
    assert row["kl"] > 0
    assert row["subject"] == "France"


def test_the_identity_changes_no_column(some_lm: LanguageModel) -> None:
    for row in evaluate(
        some_lm, [FACT, PAIR], Plan({"i": NeuronScale((), 1.0)}, {"f0": "i", "s0": "i"}), "erase"
    ):
        for name, value in row.items():
            if name.startswith("pre_"):
                assert row["post_" + name.removeprefix("pre_")] == value
        assert row["kl"] == 0 or (math.isnan(row["kl"]) and row["kind"] == "sentence")


def test_what_is_no_number_is_no_agreement(some_lm: LanguageModel) -> None:
    broken = RankOne(1, torch.full((40,), math.nan), torch.ones(24))
    (row, *_) = evaluate(some_lm, [FACT], Plan({"i": broken}, {"f0": "i"}), "replace")
    assert math.isnan(row["post_log_prob_new"])
    assert math.isnan(row["kl"])


def test_a_sentence_row_compares_whole_sentences(some_lm: LanguageModel) -> None:
    row = evaluate(some_lm, [FACT, PAIR], _plan(some_lm), "replace")[-1]
    good, bad = score_sentences(
        some_lm, [Sentence("Ann sees this cat ."), Sentence("Ann sees this cats .")]
    )
    assert row["pre_margin"] == pytest.approx(bad.log_prob - good.log_prob, abs=1e-5)


def test_what_cannot_be_tokenised_is_left_out_by_reason(lm_of) -> None:  # noqa: ANN001
    lm = lm_of("gpt2")
    unknown = Case("f1", "P36", "fact", Probe(OTHER, "Delhi", "Xyzzy", "edit"), (OTHER,))
    probe = Probe(QUERY, "Paris", "", "rephrase")
    half = Case("f2", "P36", "fact", FACT.edit, (QUERY, OTHER), (probe, *FACT.probes))
    kept, left_out = scorable(lm, [FACT, unknown, half])
    assert [case.id for case in kept] == ["f0", "f2"]
    assert kept[1].probes == FACT.probes
    assert {reason: len(found) for reason, found in left_out.items()} == {
        "case: the target is not in the tokenizer's vocabulary": 1,
        "probe: the target tokenises to nothing": 1,
    }


def test_free_answers_and_continuations_are_kept_and_a_rival_is_rated(lm_of) -> None:  # noqa: ANN001
    lm = lm_of("gpt2")
    neighbour = Probe(OTHER, "New Delhi", "New Delhi", "neighbour", rival="Rome")
    goes_on = Probe(Query("France is "), "", "", "continuation")
    case = replace(FACT, probes=(neighbour, goes_on))
    plan = _plan(lm)
    edit, near, text = evaluate(lm, [case], plan, "replace", freely=Freely(8, 6, seed=2))
    assert edit["pre_generated"] == write(lm, [Prompt(QUERY)], Writing(8))[0]
    with applied(lm, plan.edits["a"]):
        assert edit["post_generated"] == write(lm, [Prompt(QUERY)], Writing(8))[0]
        (reply,) = ask(lm, [Question(OTHER, "Rome", "Rome")])
        (written,) = write(lm, [Prompt(goes_on.query)], Writing(6, False, 5, 2))
    assert near["post_log_prob_rival"] == pytest.approx(reply.new.log_prob, abs=1e-5)
    assert text["post_generated"] == written
    assert "post_log_prob_old" not in text
    read = rows_frame([edit, near, text])
    assert read["rival"].tolist() == ["", "Rome", ""]
    fluency = Fluency()(Results(read))["fluency"]
    assert (fluency.value, fluency.n) == (pytest.approx(entropy(f"France is {written}")), 1)
    asked_only = evaluate(lm, [case], plan, "replace")
    assert "pre_generated" not in asked_only[0]
    assert asked_only[0]["post_margin"] == edit["post_margin"]


def test_the_models_own_answer_stands_in_for_one_that_nobody_says(some_lm: LanguageModel) -> None:
    rephrased = Probe(Query("France has the capital "), "", "Rome", "rephrase")
    neighbour = Probe(OTHER, "", "", "neighbour")
    case = replace(FACT, edit=Probe(QUERY, "", "Rome", "edit"), probes=(rephrased, neighbour))
    (filled,) = with_own_answers(some_lm, [case])
    assert filled.edit is not None
    assert filled.edit.old
    assert not filled.edit.old_given
    (reply,) = ask(some_lm, [Question(QUERY, filled.edit.old, "Rome")])
    assert reply.answer.startswith(filled.edit.old.split()[0]) or reply.old.exact
    first, second = filled.probes
    assert (first.old, first.new) == (filled.edit.old, "Rome")
    assert second.old == second.new != ""
    assert with_own_answers(some_lm, [FACT]) == [FACT]


def test_the_tokens_that_are_kept_are_counted_behind_the_answers_own_tokens(
    causal_lm: LanguageModel,
) -> None:
    plan = _plan(causal_lm)
    row = evaluate(causal_lm, [FACT], plan, "replace")[1]
    encoded = causal_lm.encode(OTHER, "New Delhi")
    assert len(encoded.target_ids) == 2
    found: list[list[int]] = []
    for edit in (NeuronScale((), 1.0), plan.edits["a"]):
        with applied(causal_lm, edit), torch.no_grad():
            found.append(
                [
                    int(causal_lm.model(torch.tensor([ids])).logits[0, -1].argmax())
                    for n in range(2)
                    for ids in [(*encoded.prompt_ids, *encoded.target_ids[:n])]
                ]
            )
    kept = [one == other for one, other in zip(*found, strict=True)]
    assert row["token_kept"] == sum(kept) / 2


def test_a_rival_is_rated_and_changes_nothing_else(some_lm: LanguageModel) -> None:
    plan = _plan(some_lm)
    (neighbour,) = FACT.probes
    drawn_to = replace(FACT, probes=(replace(neighbour, rival="Rome"),))
    (plain, rated) = (evaluate(some_lm, [one], plan, "replace")[1] for one in (FACT, drawn_to))
    (reply,) = ask(some_lm, [Question(OTHER, "Rome", "Rome")])
    assert rated["pre_log_prob_rival"] == pytest.approx(reply.old.log_prob, abs=1e-5)
    assert rated["rival_ids"] == list(reply.old.ids)
    for name in plain.keys() - {"rival"}:
        if isinstance(value := plain[name], float):  # type: ignore[literal-required]
            assert rated[name] == pytest.approx(value, abs=1e-5)  # type: ignore[literal-required]
        else:
            assert rated[name] == value, name  # type: ignore[literal-required]
