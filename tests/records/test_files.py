"""Files are written whole, with the modes that are usual here, and locks say whose they are."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from kn_sweeps.records import files
from kn_sweeps.records.files import LockError, held, holder, is_held, write_text
from kn_sweeps.records.run_directory import RunDirectory


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_keep_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "x", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode


def test_a_lock_says_who_holds_it_and_what_to_do_where_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / ".lock"
    with held(lock):
        assert is_held(lock)
        known = holder(lock)
        assert known is not None
        assert known[0] == os.getpid()
        directory = RunDirectory(tmp_path)
        with pytest.raises(ValueError, match=rf"process {os.getpid()} on .* delete that file"):  # noqa: SIM117
            with directory.opened():
                pass
    assert holder(lock) is None

    def refuse(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with pytest.raises(LockError, match="refuses to lock it .*put results_dir on"):  # noqa: SIM117
        with held(lock):
            pass


def test_another_user_is_told_that_he_cannot_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / ".lock"
    lock.touch()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(LockError, match="nothing tells whether a process is at work"):
        is_held(lock)
