"""The report's data: complete, bounded, and never taken for markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.figures import BrokenStudyError
from analysis.report import main
from analysis.reporting import examples as examples_module
from analysis.reporting import neurons as neurons_module
from analysis.reporting import studies as studies_module
from analysis.reporting.examples import verdicts
from analysis.reporting.neurons import Located, heat_map
from analysis.reporting.overview import duration
from analysis.runs import finished_runs
from kn_sweeps.metrics.catalogue import quantity
from kn_sweeps.records.run_directory import RunDirectory
from tests.analysis.reports import HOSTILE, KN, ROME, copied, embedded, made, many, poisoned


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Knowledge neurons and ROME on two relations."""
    results = tmp_path_factory.mktemp("results")
    made(results, *KN)
    return made(results, *ROME).parent


@pytest.fixture
def own(sweep: Path, tmp_path: Path) -> Path:
    """The same sweep, to be changed."""
    return Path(shutil.copytree(sweep, tmp_path / "own"))


def _run_of(sweep: Path, method: str) -> Path:
    for path in sweep.glob("*/summary.json"):
        if json.loads(path.read_text())["method"] == method:
            return path.parent
    raise AssertionError(method)


def _written(sweep: Path) -> str:
    assert main([str(sweep)]) == 0
    return (sweep / "report.html").read_text(encoding="utf-8")


def test_every_run_is_compared_with_the_numbers_of_its_summary(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "page.html"
    assert main([str(sweep), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"report: {out}\n"
    found = embedded(out.read_text(encoding="utf-8"), "comparison")
    names = [column["id"] for column in found["columns"]]
    assert len(found["runs"]) == 2
    for run in found["runs"]:
        summary = json.loads((sweep / run["run_id"] / "summary.json").read_text())
        for metric, cell in zip(names, run["cells"], strict=True):
            if metric in summary["metrics"]:
                expected = summary["metrics"][metric]
                assert cell[:4] == [expected[part] for part in ("value", "low", "high", "n")]
        assert dict(zip(names, run["cells"], strict=True))["method"] == summary["method"]


def test_cases_stand_with_every_run_and_its_probabilities(sweep: Path) -> None:
    page = _written(sweep)
    found, runs = embedded(page, "examples"), embedded(page, "comparison")["runs"]
    assert len(found["cases"]) == found["total"] == 4
    for case in found["cases"]:
        assert [runs[one["run"]]["method"] for one in case["runs"]] == ["kn", "rome"]
        for one in case["runs"]:
            rows = pd.read_parquet(sweep / runs[one["run"]]["run_id"] / "rows.parquet")
            rows = rows[rows["case"] == case["id"]]
            assert len(rows) == sum(reading is not None for reading in one["readings"])
            for probe, reading in zip(case["probes"], one["readings"], strict=True):
                same = (rows["prefix"] == probe["prefix"]) & (rows["new"] == probe["new"])
                if reading is not None:
                    row = rows[same & (rows["kind"] == probe["kind"])].iloc[0]
                    assert reading[3] == pytest.approx(row["post_log_prob_new"], rel=1e-4)
                    assert reading[7] == row["post_answer"]


@pytest.mark.parametrize("method", ["kn", "rome"])
def test_verdicts_average_to_the_metrics(sweep: Path, method: str) -> None:
    run = _run_of(sweep, method)
    rows = pd.read_parquet(run / "rows.parquet")
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    verdict = verdicts(rows)
    for kind, metric in (
        ("edit", "reliability"),
        ("neighbour", "locality"),
        ("synonym", "synonymy"),
    ):
        judged = verdict[rows["kind"] == kind].dropna()
        assert len(judged) == metrics[metric]["n"]
        assert not len(judged) or judged.mean() == pytest.approx(metrics[metric]["value"])
    reversal = verdict[rows["kind"] == "reversal"].dropna()
    assert len(reversal) == metrics["symmetry"]["n"]


def test_a_case_that_could_not_be_edited_says_why(own: Path) -> None:
    run = RunDirectory(_run_of(own, "rome"))
    rows = run.rows()
    case = rows["case"].iloc[0]
    about = rows[["case", "edit", "source", "task", "intent", "after", "step"]].iloc[[0]]
    failed = about.assign(probe=0, kind="failed", failure="no subject")
    pd.concat([failed, rows[rows["case"] != case]]).to_parquet(run.rows_path, index=False)
    run.finish(run.summary())
    cases = {one["id"]: one for one in embedded(_written(own), "examples")["cases"]}
    kn, rome = cases[case]["runs"]
    assert (rome["failure"], rome["readings"]) == ("no subject", [])
    assert kn["readings"]
    assert all(run["readings"] for run in cases[rows["case"].iloc[-1]]["runs"])


def test_runs_that_nothing_else_tells_apart_show_their_id(own: Path) -> None:
    copied(_run_of(own, "rome"), "twin00000000")
    found = embedded(_written(own), "comparison")
    (run_id,) = [column for column in found["columns"] if column["id"] == "run id"]
    assert run_id["shown"]
    assert len({run["label"] for run in found["runs"]}) == 3


def test_after_a_sequence_every_probe_has_a_third_reading(tmp_path: Path) -> None:
    page = _written(made(tmp_path, *ROME, "regime=sequential").parent)
    for case in embedded(page, "examples")["cases"]:
        for reading in case["runs"][0]["readings"]:
            assert None not in reading[:9]


def test_shards_are_one_run_with_the_cases_of_all(tmp_path: Path) -> None:
    for shard in ("0/2", "1/2"):
        sweep = made(tmp_path, *KN, f"shard={shard}").parent
    page = _written(sweep)
    assert len(embedded(page, "comparison")["runs"]) == 1
    assert embedded(page, "examples")["total"] == 4
    maps = embedded(page, "heat-maps")["maps"]
    located = [json.loads(path.read_text()) for path in sweep.glob("*/neurons.json")]
    assert sum(one["edits"] for one in maps) == sum(map(len, located))


def test_what_did_not_finish_is_told_with_its_reason(own: Path) -> None:
    rome = _run_of(own, "rome")
    shutil.copytree(rome, own / "failed00")
    (own / "failed00" / "summary.json").unlink()
    status = {"state": "failed", "error": f"ValueError: {HOSTILE}", "done": 1, "total": 4}
    (own / "failed00" / "status.json").write_text(json.dumps(status))
    shutil.copytree(rome, own / "broken00")
    (own / "broken00" / "summary.json").write_text("{}")
    page = _written(own)
    text = unescape(page)
    assert "<b>2</b> finished" in page
    assert "<b>1</b> failed" in page
    assert "<b>1</b> unreadable" in page
    assert f"ValueError: {HOSTILE}" in text
    assert "1 of 4" in page
    assert "broken00/summary.json" in page
    assert "<img src=x" not in page


def test_a_run_without_readable_rows_hides_no_other(own: Path) -> None:
    (_run_of(own, "rome") / "rows.parquet").write_bytes(b"")
    (_run_of(own, "kn") / "attributions.safetensors").write_bytes(b"")
    page = _written(own)
    assert len(embedded(page, "comparison")["runs"]) == 2
    assert {one["run"] for case in embedded(page, "examples")["cases"] for one in case["runs"]} == {
        0
    }
    assert embedded(page, "heat-maps")["maps"] == []


class _Elements(HTMLParser):
    """Counts the elements a browser would make."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, _: object) -> None:
        self.tags.append(tag)


def test_figures_that_cannot_be_drawn_cost_nothing_else(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Path, **__: Path) -> list[Path]:
        raise BrokenStudyError([], {"layers": TypeError("<b>odd")})

    monkeypatch.setattr(studies_module, "draw", fail)
    page = _written(sweep)
    assert "layers: TypeError: &lt;b&gt;odd" in page
    assert len(embedded(page, "comparison")["runs"]) == 2


def test_hostile_text_stays_data(own: Path, tmp_path: Path) -> None:
    clean = _Elements()
    clean.feed(_written(own))
    poisoned(_run_of(own, "rome"))
    hostile = own.rename(tmp_path / "<img src=x onerror=alert(1)>")
    page = _written(hostile)
    found = _Elements()
    found.feed(page)
    assert found.tags.count("script") == clean.tags.count("script") == 4
    assert "img" not in found.tags
    probes = [p for case in embedded(page, "examples")["cases"] for p in case["probes"]]
    assert any(probe["prefix"].startswith(HOSTILE) for probe in probes)


def test_the_policy_allows_this_script_and_this_style_and_nothing_else(sweep: Path) -> None:
    page = _written(sweep)
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', page)
    rules = dict(rule.split(" ", 1) for rule in unescape(policy).split("; "))
    for rule, tag in (("script-src", "script"), ("style-src", "style")):
        (inline,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "innerHTML =" not in page


@pytest.mark.parametrize("there", [True, False])
def test_without_a_finished_run_it_says_so_and_writes_nothing(
    tmp_path: Path, there: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweep"
    begun = folder / "a" / "config.yaml"
    if there:
        begun.parent.mkdir(parents=True)
        begun.touch()
    assert main([str(folder)]) == 1
    message = "has no finished run; 1 unfinished" if there else "there are no runs in"
    assert message in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == ([begun] if there else [])


def test_where_the_file_cannot_be_written_it_is_named(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main([str(sweep), "--out", str(tmp_path / "file" / "page.html")]) == 1
    assert "could not write" in capsys.readouterr().err


def test_fifty_runs_stay_small_and_cases_come_from_all_relations(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(_run_of(own, "kn"), 48)
    assert len(_written(own)) < 4_000_000
    runs, _ = finished_runs(own)
    assert len({run.label for run in runs}) == 50
    all_readings = examples_module.examples(runs[:4])["cases"]
    readings = max(sum(len(r["readings"]) for r in case["runs"]) for case in all_readings)
    monkeypatch.setattr(examples_module, "READINGS", 2 * readings)
    monkeypatch.setattr(examples_module, "RUNS", 4)
    found = examples_module.examples(runs)
    assert (found["runs"], found["of"]) == (4, 50)
    assert len(found["cases"]) < found["total"] == 4
    assert {case["source"] for case in found["cases"]} == {"P36", "P101"}


def test_heat_maps_that_do_not_fit_are_counted_and_every_run_has_one(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(_run_of(own, "kn"), 1)
    runs, _ = finished_runs(own)
    everything = neurons_module.heat_maps(runs)
    assert len(everything["maps"]) == everything["total"] == 4
    one = len(everything["maps"][0]["scores"])
    monkeypatch.setattr(neurons_module, "CELLS", one + 1)
    fewer = neurons_module.heat_maps(runs)
    assert fewer["total"] == 4
    assert sorted(m["run"] for m in fewer["maps"]) == sorted({m["run"] for m in everything["maps"]})


@pytest.mark.parametrize("neurons", [5, 8, 30, 31])
def test_a_column_shows_the_strongest_of_its_neurons(neurons: int) -> None:
    scores = np.random.default_rng(neurons).normal(size=(3, neurons))
    located = Located(2, {(1, 4): 2})
    found = heat_map(scores, located, columns=8)
    columns = len(found["scores"]) // 3
    assert columns <= 8
    for layer in range(3):
        for column in range(columns):
            own = scores[layer, column * found["width"] : (column + 1) * found["width"]]
            place = found["places"][layer * columns + column]
            assert abs(own[place]) == np.abs(own).max()
            shown = found["scores"][layer * columns + column] / neurons_module.STEPS * found["peak"]
            assert shown == pytest.approx(own[place], abs=1e-3 * found["peak"])
    assert found["located"] == [[1, 4, 2]]
    layer, neuron, score, _ = found["strongest"][0]
    assert abs(scores[layer, neuron]) == np.abs(scores).max()
    assert score == pytest.approx(scores[layer, neuron], rel=1e-3)


def test_scores_of_zero_make_an_empty_heat_map() -> None:
    found = heat_map(np.zeros((2, 4)), Located(0, {}))
    assert found["peak"] == 0
    assert set(found["scores"]) == {0}


def test_every_metric_of_a_run_has_a_meaning(sweep: Path) -> None:
    for path in sweep.glob("*/summary.json"):
        assert all(quantity(name).meaning for name in json.loads(path.read_text())["metrics"])
    assert quantity("one_of_ones_own").meaning == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (18120, "5 h 2 min")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_several_sweeps_are_one_report_in_the_folder_that_holds_them(
    sweep: Path, tmp_path: Path
) -> None:
    names = ("birds", "fish")
    both = [str(shutil.copytree(sweep, tmp_path / name)) for name in names]
    assert main(both) == 0
    html = (tmp_path / "report.html").read_text()
    assert "<h1>birds, fish</h1>" in html
    found = embedded(html, "comparison")["runs"]
    assert len(found) == 2 * len(list(sweep.glob("*/summary.json")))
