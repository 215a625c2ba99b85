"""Answers go out to be judged, once each, and come back as a scorer."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.judged import main
from kn_sweeps.records.run_directory import RunDirectory, runs_in
from tests.analysis.reports import made


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("judged")
    for method in ("rome", "none"):
        directory = made(
            results,
            *(f"method={method}", "dataset=pararel", "dataset.relations=[P36]", "limit=2"),
            *("max_answer_tokens=6", "metric=[reliability,generality]"),
        )
    return directory.parent


def _numbers(sweep: Path) -> dict[str, RunDirectory]:
    return {run.summary()["method"]: run for run in runs_in(sweep)}


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_verdicts_are_a_scorer(sweep: Path, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"answers.{ending}"
    assert main([str(sweep), "--ask", str(file)]) == 0
    table = (
        pd.read_csv(file, keep_default_na=False)
        if ending == "csv"
        else pd.read_json(file, lines=True, dtype=False)
    )
    assert table["id"].is_unique
    rows = _numbers(sweep)["rome"].rows()
    edits = rows[rows["kind"] == "edit"]
    assert set(edits["post_generated"]) <= set(table["answer"])
    said = ["Yes" if row.answer.startswith(row.target) else "no" for row in table.itertuples()]
    judged = table.assign(verdict=said)
    if ending == "csv":
        judged.to_csv(file, index=False)
    else:
        judged.to_json(file, orient="records", lines=True)
    assert main([str(sweep), "--take", str(file)]) == 0
    for run in _numbers(sweep).values():
        metrics, own = run.summary()["metrics"], run.rows()
        edits = own[own["kind"] == "edit"]
        right = [g.startswith(n) for g, n in zip(edits.post_generated, edits.new, strict=True)]
        assert metrics["reliability_judged"]["value"] == sum(right) / len(right)
        assert metrics["reliability_judged"]["n"] == len(edits)
        assert metrics["generality_judged"]["n"] == metrics["generality"]["n"]
        assert "beside it generated, contains, judged;" in run.summary()["protocol"]
        assert run.whole(thorough=True)


def test_what_is_no_verdict_is_refused_with_its_line(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "verdicts.csv"
    for text, told in (
        ("id,verdict\nx,maybe\n", "line 2: the verdict 'maybe' is neither yes nor no"),
        ("id,verdict\nx,yes\nx,no\n", "line 3: x was judged otherwise before"),
        ("id,said\nx,yes\n", "has no column verdict; it has id, said"),
    ):
        file.write_text(text, encoding="utf-8")
        assert main([str(sweep), "--take", str(file)]) == 1
        assert told in capsys.readouterr().err
    assert main([str(sweep), "--take", str(tmp_path / "verdicts.txt")]) == 1
    assert "name a .csv or a .jsonl file" in capsys.readouterr().err
