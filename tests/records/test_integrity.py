"""Flip a byte or cut a file short: the same rows as before, or a message; never other rows."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from analysis import table
from kn_sweeps.evaluation import regimes
from kn_sweeps.models.last_loaded import LastLoaded
from kn_sweeps.records.chunks import Chunks
from kn_sweeps.records.configs import read_config, write_config
from kn_sweeps.records.integrity import (
    DamagedError,
    load_tensors,
    read_sealed,
    save_tensors,
    sealed,
    write_sealed,
)
from kn_sweeps.records.run_directory import RunDirectory
from kn_sweeps.run import run
from kn_sweeps.sweeps import record
from kn_sweeps.sweeps.launch import launch
from kn_sweeps.sweeps.plan import LaunchConfig
from kn_sweeps.sweeps.record import Launch, launches
from kn_sweeps.sweeps.states import states
from kn_sweeps.sweeps.submit import Local
from tests.test_config import composed

QUICK = (
    *("tracker=none", "attribution_cache_gib=0", "metric=[reliability]", "method=rome"),
    *("method.steps=2", "method.contexts=0"),
    *("dataset=pararel", "dataset.relations=[P36]", "limit=3"),
)


def flipped(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


DAMAGES: list[Callable[[bytes, random.Random], bytes]] = [flipped, cut]


def damage(path: Path, how: Callable[[bytes, random.Random], bytes], draw: random.Random) -> None:
    path.write_bytes(how(path.read_bytes(), draw))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(regimes, "CHUNK", 1)
    return composed(*QUICK, f"results_dir={tmp_path}", "sweep=s")


def _rows(path: Path) -> pd.DataFrame:
    return RunDirectory(path).rows()


def test_no_flipped_bit_of_json_or_tensors_is_read(tmp_path: Path) -> None:
    draw = random.Random(0)
    value = {"a": [1, 2.5, None], "b": {"c": "déjà"}, "d": True}
    path = tmp_path / "x.json"
    write_sealed(path, value)
    assert read_sealed(path) == value
    text = path.read_bytes()
    for _ in range(300):
        path.write_bytes(flipped(text, draw))
        try:
            found = read_sealed(path)
        except DamagedError:
            continue
        # Nothing but the name of the seal was hit.
        assert {name: found[name] for name in value} == value
    tensors = {"x": torch.randn(3, 4), "n": torch.tensor(7), "empty": torch.zeros(0)}
    save_tensors(path, tensors, {"done": True})
    whole = path.read_bytes()
    for _ in range(300):
        path.write_bytes(draw.choice(DAMAGES)(whole, draw))
        try:
            got, about = load_tensors(path)
        except DamagedError:
            continue
        assert about == {"done": True}
        assert all(torch.equal(got[name], one) for name, one in tensors.items())


def test_a_finished_run_that_is_damaged_is_named_and_computed_again(
    config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    load, draw = LastLoaded(), random.Random(1)
    whole = run(config, load).directory
    expected = _rows(whole)
    names = [path.name for path in whole.iterdir() if path.suffix in (".parquet", ".safetensors")]
    names += ["summary.json", "neurons.json", "provenance.json", "status.json"]
    for name in names * 2:
        for how in DAMAGES:
            caplog.clear()
            before = (whole / name).read_bytes()
            damage(whole / name, how, draw)
            run(config, load)
            named = f"{name} is damaged" in caplog.text
            assert named or name == "status.json" or (whole / name).read_bytes() == before, name
            pd.testing.assert_frame_equal(_rows(whole), expected, check_exact=True)
            assert json.loads((whole / "summary.json").read_text())["cases"] == 3


def test_what_reads_damaged_rows_says_so_and_the_same_launch_computes_them_again(
    config: dict[str, Any], tmp_path: Path
) -> None:
    launch([("", config)], Local(), LaunchConfig())
    (path,) = tmp_path.glob("s/*/rows.parquet")
    before = path.read_bytes()
    damage(path, flipped, random.Random(2))
    launch([("", config)], Local(), LaunchConfig())  # its size is right: it counts as done
    with pytest.raises(DamagedError, match=r"rows\.parquet is damaged: its checksum"):
        RunDirectory(path.parent).rows()
    assert path.with_name("rows.parquet.damaged").is_file()
    launch([("", config)], Local(), LaunchConfig(dry_run=True))
    assert not path.is_file()
    launch([("", config)], Local(), LaunchConfig())
    assert path.read_bytes() == before


@pytest.mark.parametrize("regime", ["single", "sequential"])
def test_a_damaged_chunk_is_computed_again_and_no_other(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, regime: str
) -> None:
    load = LastLoaded()
    config = {**config, "regime": regime}
    expected = _rows(run(config, load).directory)
    original = Chunks.add
    added: list[int] = []

    def stopping(self: Any, chunk: int, *args: Any, **about: Any) -> None:
        original(self, chunk, *args, **about)
        added.append(chunk)
        if chunk == 1 and stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(Chunks, "add", stopping)
    kinds = ("json", "parquet", "edits", "safetensors")
    for n, (name, how) in enumerate(itertools.product(kinds, DAMAGES)):
        draw, stop = random.Random(n), True
        with pytest.raises(KeyboardInterrupt):
            run({**config, "sweep": f"cut{n}"}, load)
        (parts,) = (tmp_path / f"cut{n}").glob("*/parts")
        chosen = draw.randrange(2)
        damage(parts / f"{chosen:06d}.{name}", how, draw)
        stop = False
        added.clear()
        outcome = run({**config, "sweep": f"cut{n}"}, load)
        pd.testing.assert_frame_equal(_rows(outcome.directory), expected, check_exact=True)
        assert set(range(2)) & set(added) <= {chosen}


def test_a_damaged_record_of_a_launch_blocks_nothing(
    config: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    launch([("", config)], Local(), LaunchConfig())
    (path,) = tmp_path.glob("s/launches/*/launch.json")
    for how in DAMAGES:
        text = path.read_bytes()
        damage(path, how, random.Random(3))
        assert launches(tmp_path / "s") == []
        assert f"{path} is damaged" in caplog.text
        launch([("", config)], Local(), LaunchConfig())
        path.write_bytes(text)
    (found,) = launches(tmp_path / "s")
    (found.folder / "jobs.json").write_text("[1")
    assert found.jobs() == []
    path.write_text(json.dumps(sealed({"kind": "local"})))
    with pytest.raises(DamagedError, match="no launch's record"):
        Launch.read(path.parent)


def test_a_record_of_a_launch_is_read_again_only_where_it_changed(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch([("", config)], Local(), LaunchConfig())
    (first,) = launches(tmp_path / "s")
    read: list[Path] = []
    original = record.read_sealed
    monkeypatch.setattr(record, "read_sealed", lambda path: read.append(path) or original(path))
    for _ in range(3):
        assert launches(tmp_path / "s") == [first]
    assert read == []
    dataclasses.replace(first, where="elsewhere").write()
    assert [one.where for one in launches(tmp_path / "s") * 2] == ["elsewhere"] * 2
    assert len(read) == 1


def test_no_flipped_bit_of_a_config_is_read_and_anybody_can_read_it(tmp_path: Path) -> None:
    draw = random.Random(0)
    value = {"a": [1, 2.5, None], "b": {"c": "déjà", "rate": 1e-05, "on": True, "text": "1e-5x"}}
    path = tmp_path / "config.yaml"
    write_config(path, value)
    assert read_config(path) == value == OmegaConf.to_container(OmegaConf.load(path))
    assert "rate: 1.0e-05" in path.read_text()
    whole = path.read_bytes()
    for _ in range(300):
        path.write_bytes(draw.choice(DAMAGES)(whole, draw))
        with pytest.raises(DamagedError, match="config"):
            read_config(path)
    path.write_text("seed: 3\n")
    assert read_config(path) == {"seed": 3}


@pytest.mark.parametrize("how", [*DAMAGES, lambda *_: b"", None])
def test_a_damaged_config_of_a_finished_run_is_named_and_written_again(
    config: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture, how: Any
) -> None:
    launch([("", config)], Local(), LaunchConfig())
    (path,) = tmp_path.glob("s/*/config.yaml")
    before, rows = path.read_bytes(), path.with_name("rows.parquet").stat()
    if how is None:
        path.unlink()
    else:
        path.write_bytes(how(before, random.Random(4)))
        assert table.main([str(tmp_path / "s")]) == 1  # named there too, and the run is shown
    launch([("", config)], Local(), LaunchConfig(dry_run=True))
    launch([("", config)], Local(), LaunchConfig())
    assert read_config(path) == RunDirectory(path.parent).config()
    assert path.read_bytes() == before
    assert path.with_name("rows.parquet").stat() == rows
    if how is not None:
        assert "config.yaml is damaged" in caplog.text
        assert path.with_name("config.yaml.damaged").is_file()


def test_a_damaged_status_is_said_and_hides_no_other(
    config: dict[str, Any], tmp_path: Path
) -> None:
    launch([("", config)], Local(), LaunchConfig())
    (path,) = tmp_path.glob("s/*/status.json")
    path.write_bytes(path.read_bytes().replace(b'"done"', b'"dome"'))
    (one,) = states(tmp_path / "s", launches(tmp_path / "s")).values()
    assert one.state == "done"
    (path.parent / "summary.json").unlink()
    (one,) = states(tmp_path / "s", launches(tmp_path / "s")).values()
    assert one.unfinished
    assert "status.json is damaged" in one.status["damaged"]
