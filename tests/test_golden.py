"""Rows are those of before the package was taken apart and put into rooms.

`golden.jsonl` holds what eight small runs gave then (schema 4). Whoever changes what a run computes
on purpose raises SCHEMA_VERSION and writes them anew; nobody else does.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from kn_sweeps.models.last_loaded import LastLoaded
from kn_sweeps.records.run_directory import RunDirectory
from kn_sweeps.run import run
from tests.test_config import composed

GOLDEN = list(map(json.loads, Path(__file__).with_name("golden.jsonl").read_text().splitlines()))
DATA = {
    "blimp": "dataset.paradigms=[determiner_noun_agreement_1]",
    "pararel": "dataset.relations=[P36]",
}
RUNS = {
    key: list(rows)
    for key, rows in itertools.groupby(GOLDEN, lambda r: (r["model"], r["dataset"], r["method"]))
}


@pytest.fixture(scope="module")
def load() -> LastLoaded:
    return LastLoaded()


@pytest.mark.parametrize("key", RUNS, ids="-".join)
def test_rows_are_what_they_were(
    key: tuple[str, str, str], load: LastLoaded, tmp_path: Path
) -> None:
    model, dataset, method = key
    asked = (f"model={model}", f"dataset={dataset}", f"method={method}", DATA[dataset])
    more = ("limit=1", "metric=[reliability]", "tracker=none", "attribution_cache_gib=0")
    outcome = run(composed(*asked, *more, f"results_dir={tmp_path}"), load)
    found = RunDirectory(outcome.directory).rows().to_dict("records")
    assert len(found) == len(RUNS[key])
    for row, expected in zip(found, RUNS[key], strict=True):
        for name in expected.keys() - {"model", "dataset", "method"}:
            assert row[name] == _about(expected[name]), name


def _about(value: Any) -> Any:
    """Log-probabilities are equal but for the rounding of other processors."""
    return pytest.approx(value, abs=2e-3, nan_ok=True) if isinstance(value, float) else value
