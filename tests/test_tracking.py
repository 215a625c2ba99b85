"""What W&B is told, read back from its offline log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

import kn_sweeps.tracking as tracking
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


def _media(directory: Path, key: str) -> Path:
    (path,) = directory.glob(f"wandb/offline-run-*/files/media/*/{key}_*")
    return path


@pytest.fixture(scope="module")
def located(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A sweep with one offline run that located neurons, and the run's summary."""
    results = tmp_path_factory.mktemp("results")
    chosen = (*QUICK[:3], "method=kn", "tracker=wandb", f"results_dir={results}", "sweep=mine")
    return results / "mine", dict(run(composed(*chosen)).summary)


@pytest.mark.filterwarnings("default")
def test_a_run_logs_a_table_of_every_metric_with_its_interval_and_n(
    located: tuple[Path, dict[str, Any]],
) -> None:
    sweep, summary = located
    table = json.loads(_media(sweep, "metrics").read_text(encoding="utf-8"))
    assert table["columns"] == ["metric", "value", "low", "high", "n"]
    logged = {name: parts for name, *parts in table["data"]}
    assert logged == {
        name: [estimate[part] for part in table["columns"][1:]]
        for name, estimate in summary["metrics"].items()
    }


@pytest.mark.filterwarnings("default")
def test_a_run_logs_its_example_rows_and_its_figures(
    located: tuple[Path, dict[str, Any]],
) -> None:
    sweep, _ = located
    examples = json.loads(_media(sweep, "examples").read_text(encoding="utf-8"))
    assert "post_answer" in examples["columns"]
    for key in ("headline", "neurons_by_layer"):
        with Image.open(_media(sweep, key)) as image:
            assert len(image.convert("L").getcolors() or []) > 2, "something is drawn"


class _Recorder:
    """Takes the place of a W&B run."""

    def __init__(self) -> None:
        self.summary: dict[str, Any] = {}
        self.logged: dict[str, Any] = {}

    def log(self, values: dict[str, Any]) -> None:
        self.logged |= values


def _estimate(value: float | None, n: int = 3) -> dict[str, Any]:
    return {"value": value, "low": value, "high": value, "n": n}


@pytest.mark.filterwarnings("default")
def test_what_was_not_measured_is_not_drawn_or_logged_as_a_number() -> None:
    run_ = _Recorder()
    about = dict.fromkeys(("model", "source", "dataset", "method", "intent", "seed", "cases"), "x")
    metrics = {"reliability": _estimate(0.5), "symmetry": _estimate(None, 0)}
    rows = pd.DataFrame(columns=list(tracking._SAMPLE_COLUMNS))
    tracking._WandBReport(run_, 5).results({**about, "metrics": metrics}, rows)
    assert run_.logged["reliability"] == 0.5
    assert "symmetry" not in run_.logged
    assert (run_.summary["symmetry"], run_.summary["symmetry_n"]) == (None, 0)
    assert set(run_.logged) == {"reliability", "metrics", "examples", "headline"}


def test_only_the_headline_is_drawn_shares_and_nats_on_axes_of_their_own() -> None:
    metrics = {name: _estimate(0.5) for name in ("reliability", "flip_rate", "tau", "effect_size")}
    figure = tracking._headline_figure(metrics)
    assert figure is not None
    shown = {
        axis.get_xlabel(): [label.get_text() for label in axis.get_yticklabels()]
        for axis in figure.axes
    }
    assert shown == {
        "share of probes": ["reliability (n=3)", "flip_rate (n=3)"],
        "nats": ["effect_size (n=3)"],
    }
    assert tracking._headline_figure({"tau": _estimate(1.0)}) is None
