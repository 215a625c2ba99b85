"""What W&B is told, read back from its offline log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kn_sweeps.run import run
from tests.test_config import composed

QUICK = ("dataset=pararel", "dataset.relations=[P36]", "limit=2", "method=none")


def _inspect(directory: Path) -> dict[str, Any]:
    (offline,) = directory.glob("wandb/offline-run-*")
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(offline)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.filterwarnings("default")
def test_an_offline_run_has_its_id_group_config_and_headline_numbers(tmp_path: Path) -> None:
    outcome = run(composed(*QUICK, f"results_dir={tmp_path}", "sweep=mine", "tracker=wandb"))
    text = json.dumps(_inspect(tmp_path / "mine"))
    for wanted in (outcome.directory.name, "mine", "reliability", "reliability_low", "tiny_gpt2"):
        assert wanted in text


@pytest.mark.filterwarnings("default")
def test_a_failed_run_is_marked_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import kn_sweeps.run as run_module

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(run_module, "scored", fail)
    with pytest.raises(RuntimeError, match="broken"):
        run(composed(*QUICK, f"results_dir={tmp_path}", "tracker=wandb"))
    assert _inspect(tmp_path / "default")["exit_code"] == 1


@pytest.mark.filterwarnings("default")
def test_disabled_writes_nothing(tmp_path: Path) -> None:
    run(composed(*QUICK, f"results_dir={tmp_path}", "tracker.mode=disabled"))
    assert not list(tmp_path.rglob("offline-run-*"))
