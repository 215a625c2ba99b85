"""Tasks of lm-evaluation-harness see the edited model: a task file of ours, without a hub."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("lm_eval", reason="the extra `harness` is not installed")

from kn_sweeps.commands.harness import main
from kn_sweeps.run import run
from tests.test_config import composed

# The harness and what it builds on, not ours.
pytestmark = pytest.mark.filterwarnings("default")

FACTS = ("dataset=pararel", "dataset.relations=[P36]", "limit=2", "tracker=none")
TASK = """
task: which_answer
dataset_path: json
dataset_kwargs:
  data_files: {{test: "{data}"}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def _run(tmp_path: Path, *overrides: str) -> tuple[Path, pd.DataFrame]:
    where = (f"results_dir={tmp_path / 'results'}", "metric=[reliability]")
    directory = run(composed(*FACTS, *where, *overrides)).directory
    return directory, pd.read_parquet(directory / "rows.parquet")


def _task(tmp_path: Path, rows: pd.DataFrame) -> Path:
    """Old or new? The right answer is the old one."""
    data = tmp_path / "tasks" / "data.jsonl"
    data.parent.mkdir()
    asked = [
        {"text": row["prefix"].strip(), "choices": [row["old"], row["new"]]}
        for _, row in rows.iterrows()
    ]
    data.write_text("".join(json.dumps(one) + "\n" for one in asked))
    path = data.with_name("which.yaml")
    path.write_text(TASK.format(data=data))
    return path


def test_it_finds_right_what_the_rows_say_is_preferred_before_and_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, rows = _run(tmp_path, "method=rome", "method.steps=6")
    case = rows["case"].unique()[1]
    asked = rows[(rows["case"] == case) & rows["kind"].isin(["edit", "rephrase"])]
    task, out = _task(tmp_path, asked), tmp_path / "found.json"
    assert main([str(directory), case, "--tasks", str(task), "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    for moment, when in (("before", "pre"), ("after", "post")):
        expected = (asked[f"{when}_margin"] < 0).mean()
        assert found[moment]["which_answer"]["acc,none"] == pytest.approx(expected)
    assert found["before"] != found["after"]
    assert found["about"]["case"] == case
    head, line = capsys.readouterr().out.splitlines()[-2:]
    assert head.split() == ["task", "number", "before", "after", "change"]
    assert line.split()[:3] == ["which_answer", "acc", "1.0000"]


def test_what_cannot_be_asked_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, rows = _run(tmp_path, "method=none", "model=tiny_bert")
    case = str(rows["case"].iloc[0])
    (tmp_path / "nameless.yaml").write_text("dataset_path: json\n")
    for arguments, message in (
        ((str(tmp_path), case, "--tasks", "x.yaml"), "there is no task file x.yaml"),
        ((str(directory), case, "--tasks", str(tmp_path / "nameless.yaml")), "names no task"),
        ((str(tmp_path), case, "--tasks", "lambada"), "not the folder of a finished run"),
        ((str(directory), "P36/9999", "--tasks", "lambada"), "the run has no case 'P36/9999'"),
        ((str(directory), case, "--tasks", "lambada"), "is a masked LM: the harness asks causal"),
    ):
        assert main(list(arguments)) == 1
        assert message in capsys.readouterr().err
