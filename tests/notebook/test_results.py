"""Finished runs and their rows as tables."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from kn_sweeps.records.results import read_summary

import kn_sweeps as kn
from kn_sweeps.run import run
from tests.test_config import composed


def test_finished_runs_are_one_table_and_their_rows_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ("tracker=none", "attribution_cache_gib=0", "dataset=pararel", "limit=1", "sweep=two")
    where = (*quick, "dataset.relations=[P36]", f"results_dir={tmp_path / 'results'}")
    done = [
        run(composed(*where, *one)).directory
        for one in (("method=none",), ("method=rome", "method.steps=2"))
    ]
    found = kn.runs(tmp_path / "results")
    assert list(found["method"]) == ["none", "rome"]
    for directory, (_, line) in zip(done, found.iterrows(), strict=True):
        summary = read_summary(directory)
        assert summary is not None
        assert line["run_id"] == directory.name
        for name, estimate in summary["metrics"].items():
            for part, suffix in (("value", ""), ("low", "_low"), ("n", "_n")):
                expected, mine = estimate[part], line[name + suffix]
                assert mine == expected or (expected is None and pd.isna(mine))
    monkeypatch.chdir(tmp_path)
    rows = kn.rows("two")
    assert list(rows.columns[:4]) == ["run_id", "model", "dataset", "method"]
    for directory, (name, own) in zip(done, rows.groupby("method"), strict=True):
        assert name == ("none" if directory == done[0] else "rome")
        written = pd.read_parquet(directory / "rows.parquet")
        pd.testing.assert_frame_equal(own[list(written.columns)].reset_index(drop=True), written)
    assert kn.runs("two").equals(kn.runs("results/two"))
    with pytest.raises(ValueError, match=r"there are no runs in tow .*\(did you mean two\?\)"):
        kn.rows("tow")
    with pytest.raises(ValueError, match="3: expected the name of a sweep"):
        kn.runs(3)  # type: ignore[arg-type]
