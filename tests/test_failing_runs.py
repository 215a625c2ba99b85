"""What becomes of a run that cannot be done, or not of all its cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kn_sweeps.methods.rome import Rome
from kn_sweeps.models.pretrained import Bundled
from kn_sweeps.run import run
from tests.test_run import ROME, Make, maker


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    return maker(tmp_path, monkeypatch)


def test_a_case_that_cannot_be_edited_is_a_row_and_the_run_goes_on(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Rome.plan
    broken = []

    def plan(self: Rome, lm: Any, cases: Any, seed: int, **more: Any) -> Any:
        broken[:] = broken or [cases[0].id]
        if any(case.id in broken for case in cases):
            raise ValueError("this one is singular")
        return original(self, lm, cases, seed, **more)

    monkeypatch.setattr(Rome, "plan", plan)
    outcome = run(config(method=ROME))
    assert outcome.summary["failed"] == 1
    rows = pd.read_parquet(outcome.directory / "rows.parquet")
    failed = rows[rows["kind"] == "failed"]
    assert list(failed["case"]) == broken
    assert list(failed["failure"]) == ["this one is singular"]
    assert rows["case"].nunique() == 6
    assert outcome.summary["metrics"]["reliability"]["n"] == 5


def test_a_run_whose_edits_all_fail_is_no_result_and_nothing_of_it_is_done(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(*_: Any, **__: Any) -> Any:
        raise ValueError("all are singular")

    monkeypatch.setattr(Rome, "plan", plan)
    settings = config(method=ROME)
    with pytest.raises(ValueError, match="no case could be edited: all are singular"):
        run(settings)
    (path,) = Path(settings["results_dir"]).glob("*/*/status.json")
    status = json.loads(path.read_text())
    assert (status["state"], status["done"]) == ("failed", 0)


@pytest.mark.parametrize("layer", [5, 9, -1])
def test_a_layer_that_does_not_exist_is_refused_before_anything_is_written(
    config: Make, layer: int
) -> None:
    settings = config(f"method.layer={layer}", method=ROME)
    with pytest.raises(ValueError, match=rf"method\.layer={layer}: model .* choose from 0 to 4"):
        run(settings)
    assert not list(Path(settings["results_dir"]).glob("*/*/status.json"))


def test_a_layer_that_only_the_loaded_model_tells_ends_the_run_as_failed(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bundled, "described", lambda _: None)
    settings = config("method.layer=9", "model.layers=null", method=ROME)
    with pytest.raises(ValueError, match="choose from 0 to 4"):
        run(settings)
    (path,) = Path(settings["results_dir"]).glob("*/*/status.json")
    status = json.loads(path.read_text())
    assert (status["state"], status.get("done", 0)) == ("failed", 0)
