"""Rows are those of the code a process started with, and what is not that commit's says so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from mmap import PAGESIZE, mmap
from pathlib import Path
from typing import Any

import pytest
import torch

import kn_sweeps.run as run_module
from kn_sweeps.evaluation import regimes
from kn_sweeps.records import provenance
from kn_sweeps.records.chunks import Chunks
from kn_sweeps.records.provenance import code, commit
from kn_sweeps.run import run
from tests.test_config import composed

QUICK = (
    *("tracker=none", "attribution_cache_gib=0", "metric=[reliability]", "method=none"),
    *("dataset=pararel", "dataset.relations=[P36]", "limit=3"),
)


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    commit.cache_clear()
    yield
    commit.cache_clear()


def _git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    command = ["git", *who, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that looks like ours."""
    package = tmp_path / "project" / "kn_sweeps"
    (package / "records").mkdir(parents=True)
    (package / "records" / "provenance.py").write_text("x = 1\n")
    (tmp_path / "project" / ".gitignore").write_text("results/\n")
    _git(tmp_path / "project", "init", "-q")
    _git(tmp_path / "project", "add", "-A")
    _git(tmp_path / "project", "commit", "-qm", "first")
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "project")
    monkeypatch.setattr(provenance, "__file__", str(package / "records" / "provenance.py"))
    return tmp_path / "project"


@pytest.mark.parametrize(
    ("path", "dirty"),
    [
        ("kn_sweeps/records/provenance.py", True),  # changed
        ("kn_sweeps/methods/mine.py", True),
        ("mine.py", True),
        ("conf/method/mine.yaml", True),
        ("notes.txt", False),
        ("elsewhere/config.yaml", False),
        ("results/s/config.py", False),  # ignored
    ],
)
def test_code_and_configs_that_git_does_not_know_make_it_dirty(
    project: Path, path: str, dirty: bool
) -> None:
    (project / path).parent.mkdir(parents=True, exist_ok=True)
    (project / path).write_text("x = 2\n")
    assert commit() == {"commit": _git(project, "rev-parse", "HEAD"), "dirty": dirty}


def test_what_happens_to_the_files_later_changes_nothing(project: Path) -> None:
    before = dict(commit())
    assert before["dirty"] is False
    (project / "mine.py").write_text("x = 3\n")
    _git(project, "add", "-A")
    _git(project, "commit", "-qm", "second")
    assert dict(commit()) == before


def test_a_package_that_is_installed_below_another_repository_is_none_of_its_commits(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = project / ".venv" / "kn_sweeps" / "provenance.py"
    place.parent.mkdir(parents=True)
    place.write_text("x = 1\n")
    monkeypatch.setattr(provenance, "__file__", str(place))
    assert commit() == {"commit": None, "dirty": None}


def test_a_class_from_outside_the_project_is_named_with_its_checksum(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_method_of_mine.py").write_text("class Mine: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("a_method_of_mine")
    config = {"method": {"_target_": "a_method_of_mine.Mine", "of": {"_target_": "json.JSON"}}}
    found = code(config)
    assert found["dirty"] is True
    assert len(found["others"]["a_method_of_mine"]) == 64
    del sys.modules["a_method_of_mine"]


def test_a_run_that_goes_on_under_another_commit_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(regimes, "CHUNK", 1)
    config = composed(*QUICK, f"results_dir={tmp_path}", "sweep=s")
    original = Chunks.add
    now: dict[str, Any] = {"commit": "a" * 40, "dirty": True}
    monkeypatch.setattr(run_module, "code", lambda _: dict(now))

    def stopping(self: Any, chunk: int, *args: Any, **about: Any) -> None:
        original(self, chunk, *args, **about)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Chunks, "add", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    now = {"commit": "b" * 40, "dirty": False}
    caplog.set_level("INFO", logger="kn_sweeps")
    directory = run(config).directory
    assert "goes on: 1 of 3 cases are there" in caplog.text
    assert "more than one commit" in caplog.text
    found = json.loads((directory / "provenance.json").read_text())
    assert (found["commit"], found["dirty"]) == ("b" * 40, True)
    assert [one["commit"][0] for one in found["commits"]] == ["a", "b"]
    assert found["steps"] == [1, 1, 1]
    now = {"commit": "c" * 40, "dirty": False}
    both = composed(*QUICK, f"results_dir={tmp_path}", "sweep=s", "metric=[reliability,locality]")
    summary = run(both).summary
    assert {one["commit"][0] for one in summary["scored_by"].values()} == {"c"}
    assert "reliability" not in summary["scored_by"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux forgets a peak")
def test_a_stage_has_a_peak_of_its_own() -> None:
    if torch.cuda.is_available():
        pytest.skip("of an accelerator its own memory is told")
    stages = provenance.Stages()
    # Not what an allocator may have at hand: memory that is fresh, and given back.
    with stages.stage("much"), mmap(-1, 2**28) as fresh:
        fresh[::PAGESIZE] = bytes(len(fresh) // PAGESIZE)
    with stages.stage("little"):
        pass
    peaks = {name: one["peak_memory_bytes"] for name, one in stages.records.items()}
    assert peaks["much"] - peaks["little"] > 2**27
