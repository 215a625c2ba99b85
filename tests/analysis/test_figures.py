"""Figures are drawn of what a sweep has the numbers for, whole and beside their CSV."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis.figures import main, to_latex
from kn_sweeps.metrics.forgetting import criteria
from kn_sweeps.run import run
from tests import forked
from tests.test_config import composed

ENDINGS = ("pdf", "svg", "png", "csv")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ROME at two layers of a tiny model, and a method that has no layer."""
    results = tmp_path_factory.mktemp("results")
    common = ("dataset=pararel", "dataset.relations=[P36]", "limit=2", "tracker=none")
    for layer in (0, 1):
        method = ("method=rome", "method.steps=3", f"method.layer={layer}")
        run(composed(*method, *common, f"results_dir={results}"))
    run(composed("method=none", *common, f"results_dir={results}"))
    run(composed("model=tiny_bert", *method[:2], *common, f"results_dir={results}"))
    return results / "default"


def test_headline_metrics_are_drawn_by_layer(sweep: Path) -> None:
    main([str(sweep), "--latex"])
    folder = sweep / "figures"
    names = {path.name for path in folder.iterdir()}
    assert names >= {f"layers_pararel_rome.{end}" for end in (*ENDINGS, "tex")}
    numbers = pd.read_csv(folder / "layers_pararel_rome.csv")
    assert set(numbers["metric"]) == set(criteria())
    assert sorted(numbers["layer"].unique()) == [0, 1]
    assert set(numbers["model"]) == {"tiny_gpt2"}


def test_where_there_is_nothing_to_draw_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 1
    assert "there are no runs in" in capsys.readouterr().err
    run(
        composed(
            *("method=none", "dataset=pararel", "dataset.relations=[P19]", "limit=1"),
            *("tracker=none", f"results_dir={tmp_path}"),
        )
    )
    assert main([str(tmp_path / "default")]) == 1
    assert "no study has its numbers here" in capsys.readouterr().err


def test_a_table_for_a_paper_has_its_intervals_and_no_column_that_never_differs() -> None:
    table = pd.DataFrame(
        {
            "model": ["m", "m"],
            "source": ["a_b", "c"],
            "value": [0.5, None],
            "low": [0.25, None],
            "high": [0.75, None],
            "n": [4, 0],
        }
    )
    found = to_latex(table)
    assert "0.50 [0.25, 0.75]" in found
    assert "a\\_b" in found
    assert "model" not in found
    assert "nan" not in found.lower()


def test_the_preset_sweeps_all_layers_and_draws(tmp_path: Path) -> None:
    command = [sys.executable, "launch.py", "experiment=layer_sweep", "dataset.relations=[P36]"]
    command += ["limit=1", "method.steps=2", "tracker=none", f"results_dir={tmp_path}"]
    root = Path(__file__).parents[2]
    done = forked.run(command, cwd=root, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("layer_sweep/*/summary.json"))) == 5
    assert (tmp_path / "layer_sweep" / "figures" / "layers_pararel_rome.png").is_file()
