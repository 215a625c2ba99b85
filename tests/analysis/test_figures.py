"""A sweep over layers ends in a figure of its headline metrics."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis.figures import HEADLINES, main
from kn_sweeps.run import run
from tests.test_config import composed


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ROME at two layers of a tiny model."""
    results = tmp_path_factory.mktemp("results")
    for layer in (0, 1):
        run(
            composed(
                *("method=rome", "method.steps=3", f"method.layer={layer}", "dataset=pararel"),
                *("dataset.relations=[P36]", "limit=2", "tracker=none", f"results_dir={results}"),
            )
        )
    return results / "default"


def test_headline_metrics_are_drawn_by_layer(sweep: Path) -> None:
    main([str(sweep)])
    folder = sweep / "figures"
    names = {path.name for path in folder.iterdir()}
    assert names == {f"layers_pararel_rome.{end}" for end in ("pdf", "svg", "png", "csv")}
    numbers = pd.read_csv(folder / "layers_pararel_rome.csv")
    assert set(numbers["metric"]) == set(HEADLINES)
    assert sorted(numbers["layer"].unique()) == [0, 1]


def test_where_there_is_nothing_to_draw_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "has no finished run" in capsys.readouterr().err


def test_the_preset_sweeps_all_layers_and_draws(tmp_path: Path) -> None:
    command = [sys.executable, "launch.py", "experiment=layer_sweep", "dataset.relations=[P36]"]
    command += ["limit=1", "method.steps=2", "tracker=none", f"results_dir={tmp_path}"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env={**os.environ}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("layer_sweep/*/summary.json"))) == 5
    assert (tmp_path / "layer_sweep" / "figures" / "layers_pararel_rome.png").is_file()
