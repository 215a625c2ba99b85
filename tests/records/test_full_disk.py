"""A full disk: one message that names the file, a run that says it failed, and nothing lost."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors import SafetensorError

from kn_sweeps.records import chunks, run_directory
from kn_sweeps.records import status as progress
from kn_sweeps.records.files import about_files, write_atomically, write_json
from kn_sweeps.records.run_log import RunLog
from kn_sweeps.records.status import STATUS, reported
from kn_sweeps.run import run
from tests.test_config import composed

FULL = OSError(errno.ENOSPC, "No space left on device")


def _full(*_: Any, **__: Any) -> None:
    raise FULL


def test_what_a_library_makes_of_a_full_disk_is_the_systems_error_and_names_the_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "scores.safetensors"
    path.write_text("as it was")

    def write(_: Path) -> None:
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    with pytest.raises(OSError, match="No space left") as error:
        write_atomically(path, write)
    assert error.value.errno == errno.ENOSPC
    assert str(path) in about_files(error.value)
    assert path.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [path]


def test_other_errors_of_a_writer_stay_what_they_are(tmp_path: Path) -> None:
    def write(_: Path) -> None:
        raise KeyError("os")

    with pytest.raises(KeyError):
        write_atomically(tmp_path / "x", write)


def _fail_on_a_full_disk(
    directory: Path, monkeypatch: pytest.MonkeyPatch, *full: tuple[Any, str]
) -> None:
    def work() -> None:
        with reported(directory, "a launch"):
            for place, name in full:
                monkeypatch.setattr(place, name, _full)
            raise FULL

    with pytest.raises(OSError, match="No space left"):
        work()


def test_a_failed_run_says_so_where_no_new_file_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_on_a_full_disk(tmp_path, monkeypatch, (progress, "write_sealed"))
    status = json.loads((tmp_path / STATUS).read_text())
    assert status["state"] == "failed"
    assert "No space left" in status["error"]


def test_a_status_that_cannot_be_told_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_on_a_full_disk(tmp_path, monkeypatch, (progress, "write_sealed"), (Path, "open"))
    assert not (tmp_path / STATUS).exists()


def test_a_log_on_a_full_disk_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    handler = RunLog("/dev/full")
    handler.handle(logging.makeLogRecord({"msg": "a line"}))
    handler.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".edits", ".safetensors", ".json", ".parquet"])
def test_the_same_command_finishes_what_a_full_disk_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    config = composed(
        *("tracker=none", "attribution_cache_gib=0", "metric=[reliability]", "method=none"),
        *("dataset=pararel", "dataset.relations=[P36]", "limit=2", f"results_dir={tmp_path}"),
    )

    def filling(path: Path, write: Callable[[Path], object]) -> None:
        write_atomically(path, write if path.suffix != suffix else _full)

    def filling_json(path: Path, value: object) -> None:
        filling(path, lambda at: write_json(at, value))

    with monkeypatch.context() as patch:
        for module in (chunks, run_directory):
            patch.setattr(module, "write_atomically", filling)
        patch.setattr(run_directory, "write_json", filling_json)
        with pytest.raises(OSError, match="No space left") as error:
            run(config)
    assert suffix in about_files(error.value)
    (status,) = tmp_path.glob(f"*/*/{STATUS}")
    assert json.loads(status.read_text())["state"] == "failed"
    again = run(config).directory
    whole = run({**config, "sweep": "whole"}).directory
    pd.testing.assert_frame_equal(
        *(pd.read_parquet(path / "rows.parquet") for path in (again, whole)), check_exact=True
    )
