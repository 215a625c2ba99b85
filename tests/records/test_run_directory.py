"""One module names the files of a run, and what is on disk is read without a model library."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = re.compile(
    r"[\"/](config\.yaml|summary\.json|status\.json|progress\.jsonl|run\.log|rows\.parquet"
    r"|neurons\.json|provenance\.json|attributions\.safetensors|edits\.safetensors)\""
)
READERS = [
    *(
        f"kn_sweeps.records.{path.stem}"
        for path in (ROOT / "kn_sweeps" / "records").glob("[a-z]*.py")
    ),
    *("kn_sweeps.row", "analysis.table", "analysis.report", "kn_sweeps.commands.status"),
    "kn_sweeps.sweeps.submit",  # which reads a launch's record
]


def test_only_the_run_directory_names_the_files_of_a_run() -> None:
    naming = {
        str(path.relative_to(ROOT)): NAMES.findall(path.read_text(encoding="utf-8"))
        for folder in ("kn_sweeps", "analysis", "benchmarks", "hydra_plugins")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert [name for name, found in naming.items() if found] == [
        "kn_sweeps/records/run_directory.py"
    ]


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    """By module, which libraries a process that imports it alone has loaded: forked, one by one."""
    code = """
import os, sys, importlib
for name in sys.argv[1:]:
    if not os.fork():
        importlib.import_module(name)
        slow = ("torch", "transformers", "pandas", "pyarrow", "kn_sweeps.config")
        heavy = [m for m in slow if m in sys.modules]
        os.write(1, (name + " " + " ".join(heavy) + "\\n").encode())
        os._exit(0)
    os.wait()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *READERS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    found = (line.split(" ") for line in done.stdout.splitlines())
    return {name: set(heavy) - {""} for name, *heavy in found}


def test_what_is_on_disk_is_read_without_a_model_library(imported: dict[str, set[str]]) -> None:
    assert set(imported) == set(READERS)
    heavy = {name: found & {"torch", "transformers"} for name, found in imported.items()}
    assert not {name: found for name, found in heavy.items() if found}


def test_a_run_directory_is_named_without_a_library_of_tables(
    imported: dict[str, set[str]],
) -> None:
    assert imported["kn_sweeps.records.run_directory"] == set()
    assert imported["kn_sweeps.row"] == set()


def test_submitting_builds_no_config_and_so_needs_no_model_library(
    imported: dict[str, set[str]],
) -> None:
    assert imported["kn_sweeps.sweeps.submit"] == set()
