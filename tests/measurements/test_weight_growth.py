"""Weight growth is that of weights into which the edits are written."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pandas as pd
import pytest
import torch

import kn_sweeps as kn
from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.edits import NO_EDIT, Dense, Edit, InContext, Joint, NeuronScale, RankOne, joined
from kn_sweeps.interventions import merge
from kn_sweeps.measurements.weight_growth import WeightGrowth
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.plans import Plan
from kn_sweeps.records.run_directory import RunDirectory
from kn_sweeps.run import run
from tests.test_config import composed


def _by_hand(lm: LanguageModel, edit: Edit, layers: list[int]) -> float:
    before = [lm.architecture.values(layer).double().clone() for layer in layers]
    edited = deepcopy(lm)
    merge(edited, edit)
    after = [edited.architecture.values(layer).double() for layer in layers]
    added = sum(float((a - b).square().sum()) for a, b in zip(after, before, strict=True))
    return float((added / sum(float(b.square().sum()) for b in before)) ** 0.5)


def test_growth_is_that_of_the_weights_with_the_edit_in_them(some_lm: LanguageModel) -> None:
    draw = torch.Generator().manual_seed(0)
    d_ff, d_model = some_lm.architecture.d_ff, some_lm.architecture.d_model
    one = RankOne(1, torch.randn(d_ff, generator=draw), torch.randn(d_model, generator=draw))
    dense = Dense(0, torch.randn(d_ff, d_model, generator=draw))
    scale = NeuronScale(((1, 2), (1, 5)), 0.0)
    edits: dict[str, tuple[Edit, list[int]]] = {
        "one": (one, [1]),
        "both": (Joint((one, dense)), [0, 1]),
        "scaled": (scale, [1]),
    }
    still: dict[str, Edit] = {
        "none": NO_EDIT,
        "told": InContext("Rome. "),
        "read": NeuronScale(((1, 2),), 0.0, "read"),
    }
    every = {**{name: edit for name, (edit, _) in edits.items()}, **still}
    probe = Probe(Query("The city of "), "Paris", "Rome", "edit")
    cases = [Case(name, "P36", "fact", probe) for name in every]
    plan = Plan(every, {name: name for name in every})
    found = {
        one["case"]: one["growth"]
        for one in WeightGrowth().begin(some_lm, cases, 0)(cases, plan, [])
    }
    assert found.keys() == {*edits, "none", "told"}
    assert found["none"] == found["told"] == 0
    for name, (edit, layers) in edits.items():
        assert found[name] == pytest.approx(_by_hand(some_lm, edit, layers), rel=1e-4)


def test_at_a_checkpoint_it_is_that_of_all_edits_so_far(tmp_path: Path) -> None:
    asked = ("method=ft", "method.steps=2", "regime=sequential", "dataset=pararel", "limit=3")
    quick = ("dataset.relations=[P36]", "dataset.rephrasings=0", "dataset.neighbours=0")
    measured = ("measurement=[weight_growth]", "evaluate_every=[1,3]", "metric=[weight_growth]")
    config = composed(*asked, *quick, *measured, "tracker=none", f"results_dir={tmp_path}")
    directory = RunDirectory(run(config).directory)
    records = pd.DataFrame(directory.measurements()["weight_growth"])
    numbers = directory.summary()["metrics"]
    edits, lm = list(directory.edits().values()), kn.load("tiny_gpt2")
    layer = int(config["method"]["layer"])
    for made in (1, 3):
        expected = _by_hand(lm, joined(edits[:made]), [layer])
        assert numbers[f"weight_growth_after_{made}"]["value"] == pytest.approx(expected, rel=1e-4)
    assert numbers["weight_growth"]["value"] == pytest.approx(records["growth"].mean())
