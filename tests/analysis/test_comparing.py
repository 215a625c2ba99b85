"""Runs set against each other, from the table's command line and in the report."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis import report, table
from kn_sweeps.metrics.significance import holm, paired_test
from kn_sweeps.records.run_directory import RunDirectory
from tests.analysis.reports import ROME, made


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    for seed in (0, 1):
        made(results, *ROME, f"seed={seed}")
        made(results, "method=none", f"seed={seed}")
    return results / "default"


def _rows(sweep: Path, method: str, seed: int) -> pd.DataFrame:
    for path in sweep.glob("*/summary.json"):
        summary = RunDirectory(path.parent).summary()
        if (summary["method"], summary["seed"]) == (method, seed):
            return RunDirectory(path.parent).rows()
    raise AssertionError


def test_every_run_is_compared_on_the_same_cases_and_corrected_for_all(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert table.main([str(sweep), "--compare", "none", "--metrics", "reliability,locality"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["method", "minus", "metric", "difference", "p", "p_holm"]
    assert len(lines) == 4
    found = pd.read_csv(sweep / "comparison.csv")
    assert list(found["metric"]) == ["reliability", "locality"] * 2
    for seed in (0, 1):
        success = []
        for method in ("rome", "none"):
            rows = _rows(sweep, method, seed)
            edits = rows[(rows["kind"] == "edit") & (rows["after"] == "edit")]
            success.append(edits.set_index("case")["post_exact_new"].astype(float))
        row = found.iloc[2 * seed]
        assert row["difference"] == pytest.approx((success[0] - success[1]).mean())
        assert row["p"] == pytest.approx(paired_test(success[0], success[1][success[0].index]))
        assert row["n"] == len(success[0])
    assert list(found["p_holm"]) == pytest.approx(list(holm(found["p"])))
    assert (sweep / "comparison.md").read_text().count("\n") == 6


def test_seeds_are_one_row_whose_value_is_their_mean(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert table.main([str(sweep), "--over", "seed", "--json"]) == 0
    none, rome = sorted(json.loads(capsys.readouterr().out), key=lambda one: one["method"])
    assert (none["seed"], rome["seed"]) == ("0,1", "0,1")
    for name in ("reliability", "locality", "score"):
        each = [
            RunDirectory(path.parent).summary()["metrics"][name]
            for path in sweep.glob("*/summary.json")
            if RunDirectory(path.parent).summary()["method"] == "rome"
        ]
        found = rome["metrics"][name]
        assert found["value"] == pytest.approx(sum(one["value"] for one in each) / 2)
        assert found["n"] == sum(one["n"] for one in each)
        assert found["low"] <= found["value"] <= found["high"]


def test_power_says_what_so_few_edits_can_show(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert table.main([str(sweep), "--power", "--metrics", "reliability"]) == 0
    assert " mde=0." in capsys.readouterr().out
    found = pd.read_csv(sweep / "table.csv")
    assert (found["reliability_mde"] > 0.4).all()  # four edits show nothing finer
    assert table.main([str(sweep), "--compare", "none", "--power"]) == 0
    assert capsys.readouterr().out.split("\n")[0].split()[-1] == "mde"


def test_a_method_that_is_not_there_is_told_with_those_that_are(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert table.main([str(sweep), "--compare", "rone"]) == 1
    told = capsys.readouterr().err
    assert "no run of 'rone' (did you mean rome?); there are none, none, seed 0, " in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--over", "seed", "--power"), "leave out --over"),
        (("--over", "model"), "invalid choice: 'model'"),
        (("--over", "seed", "--compare", "none"), "not allowed with argument --over"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        table.main(["sweep", *arguments])
    assert message in capsys.readouterr().err


def test_a_method_that_stands_alone_and_one_that_is_there_twice_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path, *ROME)
    assert table.main([str(tmp_path), "--compare", "rome"]) == 1
    assert "it takes another method on the same cases" in capsys.readouterr().err
    made(tmp_path, "method=rome", "method.steps=2")
    assert table.main([str(tmp_path), "--compare", "rome"]) == 1
    told = capsys.readouterr().err
    assert "2 runs of rome on the same data; name one: 'rome, steps 2', 'rome, steps 3'" in told
    assert table.main([str(tmp_path), "--compare", "rome, steps 2"]) == 0


def test_the_report_has_every_pair(sweep: Path) -> None:
    assert report.main([str(sweep)]) == 0
    html = (sweep / "report.html").read_text()
    (section,) = html.split('<section id="paired"')[1:]
    body = section.split("</section>")[0]
    assert body.count("<td>reliability</td>") == 2
    assert '<th scope="col">p_holm</th>' in body
