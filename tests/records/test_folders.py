"""A sweep is named by its name or its path, and never lies outside the results folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis import figures, report, table
from kn_sweeps.commands import status
from kn_sweeps.records import folders
from kn_sweeps.run import run
from tests.test_config import composed


def a_run(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with two sweeps and a folder that is called as one of them is."""
    a_run(tmp_path / "results" / "docs" / "aaa")
    a_run(tmp_path / "results" / "birds" / "bbb")
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_and_a_path_name_the_same_sweep(here: Path) -> None:
    for name in ("birds", "results/birds", str(here / "results" / "birds"), "results/birds/"):
        assert folders.find_folder(name).resolve() == here / "results" / "birds"


def test_a_folder_without_runs_does_not_hide_the_sweep_of_its_name(here: Path) -> None:
    assert folders.find_folder("docs").resolve() == here / "results" / "docs"


def test_a_folder_of_sweeps_is_a_folder_with_runs(here: Path) -> None:
    assert folders.find_folder("results").resolve() == here / "results"


def test_the_home_directory_can_be_meant(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here / "results"))
    assert folders.find_folder("~/birds") == here / "results" / "birds"


@pytest.mark.parametrize("main", [table.main, figures.main, report.main, status.main])
def test_every_command_says_what_there_is_where_a_name_is_mistyped(main, here, capsys) -> None:
    assert main(["brids"]) in (1, 2)
    said = capsys.readouterr().err
    assert "there are no runs in brids or results/brids" in said
    assert "did you mean birds?" in said
    assert "results has birds, docs" in said


def test_what_several_names_name_is_taken_once(here: Path) -> None:
    found = folders.find_folders(["birds", "results/birds", "docs"])
    assert [path.name for path in found] == ["birds", "docs"]
    assert folders.common(found) == here / "results"
    assert folders.common(found[:1]) == found[0]


@pytest.mark.parametrize("name", ["../escape", "a/../../b", "/tmp/x", "..", ".", "", "a\nb"])
def test_a_sweep_outside_the_results_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name of a folder in results_dir"):
        folders.sweep_folder(str(tmp_path), name)
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(ValueError, match="name of a folder in results_dir"):
        run({**composed("tracker=none", f"results_dir={tmp_path}/in"), "sweep": name})
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_a_sweep_may_be_a_folder_in_a_folder(tmp_path: Path) -> None:
    assert folders.sweep_folder(str(tmp_path), "birds/2026") == tmp_path / "birds" / "2026"


def test_runs_started_without_m_have_a_state_beside_those_of_a_launch(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ("dataset=pararel", "dataset.relations=[P19]", "limit=1", "tracker=none")
    done = run(composed("method=none", *quick, "sweep=birds")).directory
    begun = here / "results" / "birds" / "begun"
    begun.mkdir()
    (begun / "config.yaml").write_text((done / "config.yaml").read_text())
    assert status.main(["birds"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "done" in lines[done.name]
    assert "tiny_gpt2 pararel none" in lines[done.name]
    assert "lost" in lines["begun"]
    assert "1 of 2 runs done" in " ".join(lines.values())
    assert status.main(["logs", "birds", done.name]) == 0
    assert "done:" in capsys.readouterr().out
    assert status.main(["birds", "docs"]) == 0
    said = capsys.readouterr().out
    assert "sweep birds" in said
    assert "sweep docs" in said
