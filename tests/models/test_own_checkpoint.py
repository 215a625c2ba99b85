"""A folder is a model by one key: label, layers and data follow from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.summaries import find_runs, identity, identity_columns
from kn_sweeps.config import RunConfig, build, pinned
from kn_sweeps.models.pretrained import Pretrained
from kn_sweeps.run import run
from tests.models.folders import configure, folder, weights, write
from tests.test_config import composed


def asked(name: str, *more: str) -> dict[str, Any]:
    return composed("model=checkpoint", f"model.name={name}", *more)


@pytest.mark.parametrize("written", ["{}", "{}/", "{}/.", "{}/../mine"])
def test_a_folder_tells_its_label_and_layers_however_it_is_written(
    tmp_path: Path, written: str
) -> None:
    at = folder(tmp_path / "mine")
    model = asked(written.format(at))["model"]
    assert (model["label"], model["layers"]) == ("mine", 5)


def test_a_relative_folder_and_one_at_home_are_found_from_anywhere_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = folder(tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "./mine/", "'~/mine'"):
        config = asked(name)
        named, model = pinned(config["model"], build(config, RunConfig).model)
        assert named["name"] == str(at)
        assert named["label"] == "mine"
        assert model.fingerprint() == Pretrained(label="x", name=str(at)).fingerprint()


def test_data_are_the_official_ones_but_for_the_models_that_ship() -> None:
    assert asked("somebody/model")["dataset"]["source"] == "hub"
    assert composed("model=tiny_gpt2")["dataset"]["source"] == "bundled"
    assert asked("somebody/model", "dataset.source=bundled")["dataset"]["source"] == "bundled"


def test_a_model_of_the_hub_has_its_own_name_and_says_its_layers_when_it_is_read() -> None:
    model = asked("somebody/model-1b")["model"]
    assert (model["label"], model["layers"]) == ("model-1b", None)


@pytest.mark.parametrize("written", ["{}/mien", "{}/mien/"])
def test_a_missing_folder_is_refused_with_the_one_that_was_meant(
    tmp_path: Path, written: str
) -> None:
    folder(tmp_path / "mine")
    model = build(asked(written.format(tmp_path)), RunConfig).model
    with pytest.raises(ValueError, match=r"does not exist \(did you mean mine\?\)"):
        model.pinned()


def test_what_a_folder_lacks_is_told_when_the_run_is_planned(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config = asked(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"tried that folder: it has no config\.json"):
        build(config, RunConfig).model.fingerprint()


def test_checkpoints_whose_folders_share_a_name_are_told_apart_in_tables(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "a" / "final"), folder(tmp_path / "b" / "final")
    write(two, {name: tensor * 1.01 for name, tensor in weights(two).items()})
    quick = ("method=none", "dataset=pararel", "dataset.source=bundled", "limit=1", "tracker=none")
    where = (f"results_dir={tmp_path / 'results'}", "dataset.relations=[P36]")
    for at in (one, two):
        run(asked(str(at), *quick, *where))
    found = find_runs(tmp_path / "results").summaries
    assert [identity(each, "model") for each in found] == ["final", "final"]
    assert "model.name" in identity_columns(found)
    assert {identity(each, "model.name") for each in found} == {str(one), str(two)}


def test_layers_that_a_config_does_not_say_are_read_all_the_same(tmp_path: Path) -> None:
    at = folder(tmp_path / "mine")
    configure(at, n_layer="five")
    with pytest.raises(ValueError, match="mine could not be loaded"):
        build(asked(str(at)), RunConfig).model.described()
