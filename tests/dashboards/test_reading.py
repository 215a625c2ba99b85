"""What a run directory says to a dashboard, and what its runs are called."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from kn_sweeps.dashboards.reading import read_published, state_of
from kn_sweeps.records.files import held
from kn_sweeps.records.history import note_step, read_history
from kn_sweeps.records.naming import names
from kn_sweeps.records.run_directory import RunDirectory
from tests.dashboards.runs import config_of, tell, write_run


def test_a_config_is_read_as_it_was_written(tmp_path: Path) -> None:
    config = {"rate": 1e-05, "large": 2.5e20, "small": 0.1, "count": 3, "text": "1e-5x", "no": None}
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    assert RunDirectory(tmp_path).config() == config


def test_runs_of_one_headline_are_told_apart_by_the_settings_in_which_they_differ(
    tmp_path: Path,
) -> None:
    sweep = tmp_path / "oaks"
    one, two = config_of(sweep), config_of(sweep, layer=2)
    other = {**config_of(sweep), "model": {"label": "bert"}}
    two["dataset"] = {**two["dataset"], "relations": ["P1", "P2"]}
    two["tracker"] = {"_target_": "elsewhere"}
    assert names({"a": one, "b": two, "c": other}) == {
        "a": "toy pararel rome relations=[P1] layer=1",
        "b": "toy pararel rome relations=[P1,P2] layer=2",
        "c": "bert pararel rome",
    }


def test_settings_of_the_same_name_keep_the_whole_of_it(tmp_path: Path) -> None:
    one = config_of(tmp_path) | {"model": {"label": "toy", "layer": 1}}
    two = config_of(tmp_path, layer=2) | {"model": {"label": "toy", "layer": 3}}
    assert names({"a": one, "b": two})["b"] == "toy pararel rome model.layer=3 method.layer=2"


def test_a_history_is_what_a_run_said_last(tmp_path: Path) -> None:
    for done in (0, 2, 4):
        note_step(tmp_path, done, 6)
    first = read_history(tmp_path)[:2]
    note_step(tmp_path, 2, 6)  # killed, and taken up again where two were saved
    with (tmp_path / "progress.jsonl").open("a") as file:
        file.write('{"done": 3, "tot\n')
    note_step(tmp_path, 6, 6)
    assert [step.done for step in read_history(tmp_path)] == [0, 2, 6]
    assert read_history(tmp_path)[:2] == first, "told again, it is as long ago as it was"
    note_step(tmp_path / "gone", 1, 2)  # what cannot be written is left out
    assert read_history(tmp_path / "gone") == ()


def test_a_run_is_running_while_it_is_held_or_its_job_runs(tmp_path: Path) -> None:
    run = write_run(tmp_path, "one", state="running")
    assert state_of(run) == "failed"
    with held(run / ".lock"):
        assert state_of(run) == "running"
    tell(run, "running", where={"job": "51_3"})
    assert state_of(run, {"51_3"}) == "running"
    assert state_of(run, {"51_4"}) == "failed"
    assert read_published(run, "name", 2).summary == {"state": "lost"}
    done = write_run(tmp_path, "two")
    assert state_of(done, {"51_3"}) == "finished"
