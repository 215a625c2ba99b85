"""Perplexity is that of a plain loop over tokens, under what is in effect for each case."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch

import kn_sweeps as kn
from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.edits import Edit, NeuronScale, RankOne, joined
from kn_sweeps.interventions import applied
from kn_sweeps.measurements import perplexity
from kn_sweeps.measurements.perplexity import Perplexity
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.plans import Plan
from kn_sweeps.records.run_directory import RunDirectory
from kn_sweeps.run import run
from tests.reference.scoring import causal_log_prob, pseudo_log_likelihood
from tests.test_config import composed

TEXTS = ["The capital of France is Paris .", "Ann sees this cat .", "Bob , Ann and xyzzy"]
CASES = [
    Case(name, "P36", "fact", Probe(Query("The city of "), "Paris", "Rome", "edit"))
    for name in ("a", "b", "c")
]


def _edits(lm: LanguageModel) -> dict[str, Edit]:
    draw = torch.Generator().manual_seed(1)
    sizes = (lm.architecture.d_ff, lm.architecture.d_model)
    return {
        **{n: RankOne(1, *(torch.randn(s, generator=draw) for s in sizes)) for n in ("a", "b")},
        "c": NeuronScale((), 1.0),
    }


def _by_hand(lm: LanguageModel, edit: Edit, texts: list[str]) -> float:
    total, tokens = 0.0, 0
    with applied(lm, edit):
        for text in texts:
            encoded = lm.encode(Query(""), text)
            ids = torch.tensor([encoded.ids])
            tokens += len(encoded.target_ids)
            if lm.kind == "causal":
                prompt = torch.tensor([encoded.prompt_ids])
                total += sum(causal_log_prob(lm.model, prompt, encoded.target_ids))
            else:
                special = [0, len(encoded.ids) - 1]
                mask = int(lm.tokenizer.mask_token_id)
                total += pseudo_log_likelihood(lm.model, ids, mask, special)
    return math.exp(-total / tokens)


@pytest.mark.parametrize("reads", [2048, 9])
def test_a_record_is_what_a_loop_over_tokens_gives(
    some_lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: int
) -> None:
    monkeypatch.setattr(perplexity, "_READS", reads)
    path = tmp_path / "text.txt"
    path.write_text("\n".join(TEXTS))
    edits = _edits(some_lm)
    plan = Plan(edits, {name: name for name in edits})
    found = Perplexity(texts=str(path)).begin(some_lm, CASES, 0)(CASES, plan, [])
    # The third text has a word that the tokenizer does not know.
    before = _by_hand(some_lm, NeuronScale((), 1.0), TEXTS[:2])
    for record in found:
        assert record["before"] == pytest.approx(before, rel=1e-5)
        after = _by_hand(some_lm, edits[record["edit"]], TEXTS[:2])
        assert record["after"] == pytest.approx(after, rel=1e-5)
    assert found[0]["after"] != found[1]["after"]
    assert found[2]["after"] == found[2]["before"]


def test_what_is_in_effect_is_measured_not_the_edit_alone(
    causal_lm: LanguageModel, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("\n".join(TEXTS))
    edits = _edits(causal_lm)
    both = joined([edits["a"], edits["b"]])
    plan = Plan(edits, {n: n for n in edits}, effects=dict.fromkeys(edits, both))
    measure = Perplexity(texts=str(tmp_path), samples=2, max_tokens=4)
    texts = ["The capital of France", "Ann sees this cat"]
    for record in measure.begin(causal_lm, CASES, 0)(CASES, plan, []):
        assert record["after"] == pytest.approx(_by_hand(causal_lm, both, texts), rel=1e-5)


def test_numbers_that_cannot_be_meant_and_texts_that_cannot_be_read_are_refused(
    causal_lm: LanguageModel, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        Perplexity(samples=0)
    path = tmp_path / "text.txt"
    path.write_text("xyzzy\n")
    with pytest.raises(ValueError, match="can read none of the texts"):
        Perplexity(texts=str(path)).begin(causal_lm, CASES, 0)


def test_a_sequence_is_measured_as_edited_so_far(tmp_path: Path) -> None:
    asked = ("method=ft", "method.steps=2", "regime=sequential", "dataset=pararel", "limit=3")
    quick = ("dataset.relations=[P36]", "dataset.rephrasings=0", "dataset.neighbours=0")
    measured = ("measurement=[perplexity]", "measurement.perplexity.samples=3")
    where = ("tracker=none", f"results_dir={tmp_path}", "metric=[perplexity]")
    where += ("evaluate_every=[2,3]",)
    directory = RunDirectory(run(composed(*asked, *quick, *measured, *where)).directory)
    records = directory.measurements()["perplexity"]
    numbers = directory.summary()["metrics"]
    assert numbers["perplexity"]["value"] == pytest.approx(records["after"].mean())
    assert numbers["perplexity_before"]["value"] == pytest.approx(records["before"].iloc[0])
    logs = records[["before", "after"]].apply(lambda column: column.map(math.log))
    change = (logs["after"] - logs["before"]).mean()
    assert numbers["loss_change"]["value"] == pytest.approx(change)
    edits = directory.edits()
    lm = kn.load("tiny_gpt2")
    texts = Perplexity(samples=3)._readable(lm)
    so_far: list[Edit] = []
    for record in pd.DataFrame(records).to_dict("records"):
        so_far.append(edits[record["edit"]])
        assert record["after"] == pytest.approx(_by_hand(lm, joined(so_far), texts), rel=1e-4)
    for made in (2, 3):
        expected = _by_hand(lm, joined(so_far[:made]), texts)
        then = numbers[f"perplexity_after_{made}"]
        assert (then["value"], then["n"]) == (pytest.approx(expected, rel=1e-4), 1)
        change = math.log(expected / records["before"].iloc[0])
        assert numbers[f"loss_change_after_{made}"]["value"] == pytest.approx(change, abs=1e-4)
    assert "perplexity_after_1" not in numbers
