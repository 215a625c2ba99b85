"""An exported checkpoint answers as the run's rows say."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModel

from kn_sweeps.cases import Query
from kn_sweeps.commands.export import main
from kn_sweeps.models.asking import Question, ask
from kn_sweeps.models.pretrained import Pretrained
from kn_sweeps.run import run
from tests.models.folders import folder, weights, write
from tests.test_config import composed

FACTS = ("dataset=pararel", "dataset.relations=[P36]", "limit=3", "tracker=none")


def _run(tmp_path: Path, *overrides: str) -> Path:
    results = f"results_dir={tmp_path / 'results'}"
    return run(composed(*FACTS, results, "metric=[reliability]", *overrides)).directory


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=rome", "method.steps=6", "model=tiny_bert"),
        ("method=kn", "method.quadrature=riemann", "method.steps=2"),
        ("method=ft", "regime=sequential"),
        ("method=memit", "method.second_moment=null", "regime=batch", "edits_per_batch=2"),
    ],
    ids=lambda overrides: overrides[0].removeprefix("method="),
)
def test_it_answers_as_the_rows_say(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    directory = _run(tmp_path, *overrides)
    rows = pd.read_parquet(directory / "rows.parquet")
    rows = rows[rows["after"] == "edit"]
    case = rows["case"].unique()[1]
    out = tmp_path / "out"
    main([str(directory), case, str(out)])
    AutoModel.from_pretrained(out)
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1
    exported = Pretrained(label="out", name=str(out))
    lm = exported.load(torch.device("cpu"), "float32")
    for _, row in rows[rows["case"] == case].iterrows():
        (reply,) = ask(lm, [Question(Query(row["prefix"], row["suffix"]), row["old"], row["new"])])
        assert reply.answer == row["post_answer"]
        assert reply.new.log_prob == pytest.approx(row["post_log_prob_new"], abs=1e-3)
    assert json.loads((out / "edit.json").read_text())["case"] == case


def test_what_cannot_be_exported_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = _run(tmp_path, "method=none")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    case = str(pd.read_parquet(directory / "rows.parquet")["case"].iloc[0])
    for arguments, message in (
        ((str(tmp_path), case, "out"), "not the folder of a finished run"),
        ((str(directory), "P36/99999", str(tmp_path / "out")), "the run has no case 'P36/99999'"),
        ((str(directory), case, str(tmp_path / "full")), "exists and has files"),
    ):
        assert main(arguments) == 1
        assert message in capsys.readouterr().err


def test_a_model_that_changed_since_it_was_edited_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = folder(tmp_path / "m")
    where = ("model=gpt2", f"model.name={at}", "model.layers=5", "dataset.source=bundled")
    directory = _run(tmp_path, *where, "method=rome", "method.layer=1", "method.steps=2")
    case = pd.read_parquet(directory / "rows.parquet")["case"].iloc[0]
    write(at, {name: tensor * 1.01 for name, tensor in weights(at).items()})
    assert main([str(directory), case, str(tmp_path / "out")]) == 1
    assert "is not the one that was edited" in capsys.readouterr().err
