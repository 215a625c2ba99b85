"""What a model said before and after stands beside each question."""

from __future__ import annotations

from pathlib import Path

import pytest

from kn_sweeps.commands.answers import answers, main
from kn_sweeps.records.run_directory import RunDirectory
from tests.analysis.reports import made


def test_every_question_has_its_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path, "method=none", "dataset.relations=[P36]", "limit=1")
    free = made(
        tmp_path, "method=none", "dataset.relations=[P36]", "limit=1", "max_answer_tokens=5"
    )
    for one, column in ((run, "answer"), (free, "generated")):
        assert main([str(one), "--rows", "3"]) == 0
        lines = capsys.readouterr().out.splitlines()
        rows = answers(one, 3).lines
        assert len(rows) == 3
        assert lines[0] == f"answers of {one}"
        told = RunDirectory(one).first_rows(3, ("prefix", f"pre_{column}", "old", "new"))
        for row, said in zip(rows, told.to_dict("records"), strict=True):
            assert said["prefix"] in row[2]
            assert row[3] == row[4] == " ".join(said[f"pre_{column}"].split())
            assert said["new"] in row[5]
    assert main([str(tmp_path)]) == 1
    assert "is no finished run" in capsys.readouterr().err
