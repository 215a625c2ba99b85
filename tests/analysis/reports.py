"""Sweeps for the tests of the report: little real runs, and copies of them under other names."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from kn_sweeps.records.run_directory import RunDirectory
from kn_sweeps.run import run
from tests.test_config import composed

FACTS = ("dataset=pararel", "dataset.relations=[P36,P101]", "limit=2", "tracker=none")
KN = ("method=kn", "method.quadrature=riemann", "method.steps=2")
ROME = ("method=rome", "method.steps=3")
HOSTILE = "</script><img src=x onerror=alert(1)><b>bold</b>"


def made(results: Path, *overrides: str) -> Path:
    """Do one run and give its directory."""
    quick = ("attribution_cache_gib=0", f"results_dir={results}")
    return run(composed(*FACTS, *quick, *overrides)).directory


def copied(directory: Path, run_id: str, **changes: Any) -> Path:
    """A copy of a run in the same sweep, under another id and with another summary."""
    target = directory.parent / run_id
    shutil.copytree(directory, target)
    own = RunDirectory(target)
    summary = own.summary() | {"run_id": run_id, "whole_run": run_id, **changes}
    own.finish(summary)
    own.write_config(own.config() | {"seed": summary["seed"]})
    return target


def many(directory: Path, runs: int) -> None:
    """Copies of a run with as many seeds, and with values of their own."""
    metrics = RunDirectory(directory).summary()["metrics"]
    for n in range(1, runs + 1):
        value = {"value": n / (runs + 1), "low": 0.0, "high": 1.0, "n": n}
        copied(directory, f"copy{n:08d}", seed=n, metrics={**metrics, "reliability": value})


def poisoned(directory: Path) -> None:
    """Put hostile text wherever data comes from."""
    rows = pd.read_parquet(directory / "rows.parquet")
    for column in ("prefix", "new", "post_answer", "group"):
        rows[column] = HOSTILE + rows[column]
    rows["source"] = HOSTILE + rows["source"]
    rows.to_parquet(directory / "rows.parquet", index=False)
    own = RunDirectory(directory)
    hostile = {"commit": HOSTILE[:12], "model_revision": HOSTILE, "data_source": HOSTILE}
    own.write_provenance(own.provenance() | hostile)
    summary = own.summary()
    metrics = {f"{name}{HOSTILE}": value for name, value in summary["metrics"].items()}
    own.finish(summary | {"model": f"model {HOSTILE}", "metrics": metrics})


def embedded(html: str, name: str) -> Any:
    """The data of one section, as the page's script reads it."""
    pattern = rf'<script type="application/json" id="data-{name}">(.*?)</script>'
    (text,) = re.findall(pattern, html, flags=re.DOTALL)
    return json.loads(text)
