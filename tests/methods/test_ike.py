"""A model that is told something says what the unedited one says of the whole text."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.commands.export import main as export
from kn_sweeps.edits import (
    InContext,
    Joint,
    LowRank,
    RankOne,
    apart,
    joined,
    load_edits,
    save_edits,
)
from kn_sweeps.evaluation.evaluate import Freely, _share_kept, evaluate
from kn_sweeps.evaluation.regimes import scored, scored_again
from kn_sweeps.interventions import applied, applied_rowwise, merge
from kn_sweeps.measurements.perplexity import Perplexity
from kn_sweeps.methods.ike import InContextEditing
from kn_sweeps.methods.random import RandomControl
from kn_sweeps.models.asking import Question, Sentence, ask, score_sentences
from kn_sweeps.models.generating import Prompt, Writing, write
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.reading import TargetScore
from kn_sweeps.plans import Plan
from kn_sweeps.row import Row
from kn_sweeps.run import run
from tests.test_config import composed

FRANCE = Query("The capital of France is ", " .", (15, 21))
INDIA = Query("The capital of India is ", " .", (15, 20))
FACT = Case(
    "f0",
    "P36",
    "fact",
    Probe(FRANCE, "Paris", "New Delhi", "edit"),
    probes=(
        Probe(INDIA, "New Delhi", "New Delhi", "neighbour", rival="Rome"),
        Probe(Query("France is "), "", "", "continuation"),
    ),
)
PAIR = Case(
    "s0",
    "dna",
    "syntax",
    Probe(Query("Ann sees this ", " ."), "cat", "cats", "edit"),
    probes=(Probe(Query(""), "Ann sees this cat .", "Bob sees these cats .", "sentence"),),
)
METHOD = InContextEditing(template="Ann sees that {fact} . ")
TOLD = {
    "f0": "Ann sees that The capital of France is New Delhi . ",
    "s0": "Ann sees that Ann sees this cats . ",
}


def _by_hand(lm: LanguageModel, text: str, probe: Probe) -> dict[str, object]:
    """What the unedited model says of a text and a question written one behind the other."""
    if probe.kind == "sentence":
        found = []
        for sentence in (probe.old, probe.new):
            encoded = lm.encode(Query(text), sentence)
            if lm.kind == "causal":
                rows = [(encoded.ids[: n + 1], n) for n in range(*encoded.target)]
                rows = [(ids[:-1], n - 1) for ids, n in rows]
            else:
                rows = [
                    (lm.masked(encoded.ids, range(n, n + 1)), n) for n in range(*encoded.target)
                ]
            terms = []
            for (ids, at), gold in zip(rows, encoded.target_ids, strict=True):
                with torch.no_grad():
                    logits = lm.model(torch.tensor([ids])).logits[0, at]
                terms.append(float(logits.log_softmax(-1)[gold]))
            found.append(sum(terms))
        return {"post_log_prob_old": found[0], "post_log_prob_new": found[1]}
    whole = Query(text + probe.query.prefix, probe.query.suffix)
    if probe.kind == "continuation":
        if lm.kind == "masked":
            return {}
        return {"post_generated": write(lm, [Prompt(whole)], Writing(6, False, 5, 0))[0]}
    (reply,) = ask(lm, [Question(whole, probe.old, probe.new)])
    return {
        "post_log_prob_old": reply.old.log_prob,
        "post_log_prob_new": reply.new.log_prob,
        "post_exact_new": reply.new.exact,
        "post_answer": reply.answer,
    }


def _agree(lm: LanguageModel, row: Row, text: str, probe: Probe) -> None:
    for name, value in _by_hand(lm, text, probe).items():
        got = row[name]  # type: ignore[literal-required]
        assert got == (pytest.approx(value, abs=1e-9) if isinstance(value, float) else value), name


def test_every_probe_is_asked_behind_the_fact(
    some_lm: LanguageModel, weights_kept: Callable[[LanguageModel], None]
) -> None:
    weights_kept(some_lm)
    cases = [FACT, PAIR]
    plan = METHOD.plan(some_lm, cases)
    rows = evaluate(some_lm, cases, plan, "replace", freely=Freely(None, 6))
    probes = [(case, probe) for case in cases for probe in case.all_probes]
    for row, (case, probe) in zip(rows, probes, strict=True):
        _agree(some_lm, row, TOLD[case.id], probe)
    alone = [evaluate(some_lm, [case], plan, "replace", freely=Freely(None, 6)) for case in cases]
    for row, one in zip(rows, [row for some in alone for row in some], strict=True):
        assert one.keys() == row.keys()
        for name, value in one.items():
            if isinstance(value, float):
                assert row[name] == pytest.approx(value, abs=1e-9, nan_ok=True)
            else:
                assert row[name] == value
    assert not some_lm.context


def test_several_facts_stand_before_the_question_in_their_order(some_lm: LanguageModel) -> None:
    method = replace(METHOD, demonstrations=("a b . ", "c . "), question="d . ")
    facts = TOLD["f0"] + TOLD["s0"]
    expected = f"a b . c . {facts}d . "
    plan, rows = scored(some_lm, method, [FACT, PAIR], step=0, seed=0, regime="batch")
    _agree(some_lm, rows[0], expected, FACT.all_probes[0])
    first, _ = scored(some_lm, method, [FACT], step=0, seed=0, regime="sequential")
    _, rows = scored(
        some_lm,
        method,
        [PAIR],
        step=1,
        seed=0,
        regime="sequential",
        before=joined(first.edits.values()),
    )
    _agree(some_lm, rows[0], expected, PAIR.all_probes[0])
    so_far = joined(plan.edits.values())
    rows = scored_again(some_lm, method, [FACT], so_far, after="all", step=1, made=2)
    _agree(some_lm, rows[0], expected, FACT.all_probes[0])


def test_a_notebook_that_applies_it_asks_behind_it(some_lm: LanguageModel) -> None:
    edit = METHOD.plan(some_lm, [FACT]).joint()
    question = Question(INDIA, "New Delhi", "Rome")
    with applied(some_lm, edit):
        assert some_lm.is_edited
        (inside,) = ask(some_lm, [question])
        with applied(some_lm, InContext("c . ")):
            assert some_lm.context == TOLD["f0"] + "c . "
    (carried,) = ask(some_lm, [question._replace(edit=edit)])
    whole = Query(TOLD["f0"] + INDIA.prefix, INDIA.suffix)
    (by_hand,) = ask(some_lm, [question._replace(query=whole)])
    for reply in (inside, carried):
        assert reply.new.log_prob == pytest.approx(by_hand.new.log_prob, abs=1e-9)
    with pytest.raises(RuntimeError, match="inside"), applied(some_lm, edit):
        raise RuntimeError("inside")
    assert not some_lm.context
    assert not some_lm.is_edited


def test_it_goes_together_with_a_change_of_weights(some_lm: LanguageModel) -> None:
    draw = torch.Generator().manual_seed(0)
    sizes = (some_lm.architecture.d_ff, some_lm.architecture.d_model)
    rank_one = RankOne(1, *(torch.randn(n, generator=draw) for n in sizes))
    both = Joint((rank_one, InContext("c . ")))
    rows = evaluate(some_lm, [FACT], Plan({"f0": both}, {"f0": "f0"}), "replace")
    with applied(some_lm, rank_one):
        _agree(some_lm, rows[0], "c . ", FACT.all_probes[0])
    text, rest = apart(both)
    assert text == "c . "
    assert isinstance(rest, LowRank)
    assert apart(rank_one) == ("", rank_one)


def test_what_is_too_long_behind_its_text_fails_and_others_do_not(
    some_lm: LanguageModel, tmp_path: Path
) -> None:
    long = replace(FACT, id="f1", edit=Probe(Query("a " * 40), "Paris", "Rome", "edit"))
    plan, rows = scored(some_lm, METHOD, [FACT, long], step=0, seed=0, regime="single")
    assert set(plan.edits) == {"f0", "f1"}
    assert {row["case"] for row in rows if row["kind"] != "failed"} == {"f0"}
    assert rows[-1]["failure"].startswith(
        "behind the text of its edit: longer than the 64 tokens the model reads"
    )
    texts = tmp_path / "texts.txt"
    text = "Bob sees that capital ."
    texts.write_text(text)
    measure = Perplexity(str(texts), 1, 20).begin(some_lm, [FACT], 0)
    (found,) = measure([FACT, long], plan, rows)
    assert found["case"] == "f0"
    (score,) = score_sentences(some_lm, [Sentence(text, plan.edits["f0"])])
    assert found["after"] == pytest.approx(math.exp(-score.log_prob / len(score.ids)))
    assert found["after"] != found["before"]


def test_it_is_kept_and_read_back(tmp_path: Path) -> None:
    edits = {
        "a": InContext("x . ", "before ", "Q: "),
        "b": joined([InContext("y"), InContext("z")]),
    }
    save_edits(tmp_path / "edits", edits)
    found = load_edits(tmp_path / "edits")
    assert [apart(edit) for edit in found.values()] == [("before x . Q: ", None), ("yz", None)]
    assert "told 'x .'" in repr(found["a"])


def test_what_needs_weights_or_rows_refuses_it(causal_lm: LanguageModel) -> None:
    edit = InContext("c . ")
    with pytest.raises(ValueError, match="changes no weights, only what is asked"):
        merge(causal_lm, edit)
    assert causal_lm.revision
    with (
        pytest.raises(ValueError, match="put before what is asked"),
        applied_rowwise(causal_lm, [edit]),
    ):
        pass
    with pytest.raises(ValueError, match="has no random counterpart"):
        RandomControl(METHOD).plan(causal_lm, [FACT])
    with pytest.raises(ValueError, match=r"must have \{fact\} once"):
        InContextEditing(template="Imagine")


def test_a_sentence_is_behind_the_text_without_a_chat_template(causal_lm: LanguageModel) -> None:
    sentence = "Ann sees this cat ."
    (score,) = score_sentences(causal_lm, [Sentence(sentence, InContext("c . "))])
    assert score.ids == causal_lm.encode(Query(""), sentence, "c . ").target_ids


def test_tokens_that_a_text_before_them_changes_are_not_compared() -> None:
    one = TargetScore((5, 6), (-1.0, -2.0), (5, 7), exact=False)
    assert math.isnan(_share_kept(one, replace(one, ids=(8,), best=(8,))))
    assert _share_kept(one, replace(one, best=(5, 6))) == 0.5


@pytest.mark.parametrize("model", ["tiny_gpt2", "tiny_bert"])
def test_a_run_in_a_sequence_goes_as_far_as_the_model_reads(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("dataset=pararel", "dataset.relations=[P36]", "limit=8", "tracker=none")
    made = run(
        composed(
            *settings,
            f"model={model}",
            "method=ike",
            "regime=sequential",
            "metric=[reliability,forgetting]",
            f"results_dir={tmp_path}",
        )
    )
    rows = pd.read_parquet(made.directory / "rows.parquet")
    first = rows[rows["after"] == "edit"]
    case = first["case"].iloc[0]
    assert first["kind"].iloc[0] == "edit"
    assert made.summary["failed"] == first[first["kind"] == "failed"]["case"].nunique()
    assert export([str(made.directory), case, str(tmp_path / "out")]) == 1
    assert "changes no weights" in capsys.readouterr().err
