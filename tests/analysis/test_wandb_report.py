"""The W&B workspace and report are right without a server, and read back from one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import analysis
from analysis import wandb_spec as spec
from analysis.wandb_report import main
from tests.servers.wandb import INTERNAL_ID, Run, WandbServer

ROOT = Path(__file__).parents[2]

HOSTILE = "a|b\n<script>alert(1)</script>[x](http://y) `c` $d$ **e** _f_ & 'g' \"h\""
PROVENANCE = {"commit": "0123456789abcdef", "dirty": False, "data_source": "bundled"}


def estimate(value: float | None = 0.5, n: int = 40) -> dict[str, Any]:
    return {"value": value, "low": 0.4, "high": 0.6, "n": n}


def write_run(results: Path, run_id: str, sweep: str = "mine", **given: Any) -> None:
    tracker = given.pop("tracker", {"project": "kn", "entity": "lab"})
    summary = {
        **{"run_id": run_id, "model": "tiny_gpt2", "source": "bundled", "dataset": "pararel"},
        **{"method": "rome", "intent": "replace", "seed": 0, "cases": 40, "sweep": sweep},
        "metrics": {"reliability": estimate(), "tau": estimate()},
    } | given
    run = results / sweep / run_id
    run.mkdir(parents=True)
    config = {"sweep": sweep, "tracker": tracker}
    (run / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    (run / "provenance.json").write_text(json.dumps(PROVENANCE), encoding="utf-8")
    (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A sweep with both intents and two datasets."""
    blimp = {"reliability": estimate(), "flip_rate": estimate(), "effect_size": estimate(-3.0)}
    write_run(tmp_path, "a")
    write_run(tmp_path, "b", method="kn", intent="erase", neurons_by_layer=[3, 0, 1])
    write_run(tmp_path, "c", dataset="blimp", metrics=blimp)
    return tmp_path


def dry(results: Path, capsys: pytest.CaptureFixture[str], sweep: str = "mine") -> Any:
    assert main([str(results / sweep), "--dry-run"]) == 0
    return json.loads(capsys.readouterr().out)


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(child, dict | list):
            yield from nodes(child)


def filters(runs: dict[str, Any]) -> dict[str, str]:
    return {one["key"]["name"]: one["value"] for one in runs["filters"]["filters"]}


def grids(saved: Any) -> list[dict[str, Any]]:
    blocks = saved["report"]["spec"]["blocks"]
    return [block["metadata"] for block in blocks if block["type"] == "panel-grid"]


def charts(tree: Any) -> list[str]:
    return [n["config"]["metrics"][0] for n in nodes(tree) if n.get("viewType") == "Bar Chart"]


def tables(saved: Any) -> list[str]:
    blocks = saved["report"]["spec"]["blocks"]
    return [block["content"] for block in blocks if block["type"] == "markdown-block"]


def test_the_workspace_shows_the_sweeps_runs_and_a_chart_a_headline_metric(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = dry(results, capsys)["workspace"]
    assert (saved["entity"], saved["project"]) == ("lab", "kn")
    (runs,) = saved["spec"]["section"]["runSets"]
    assert filters(runs) == {"group": "mine"}
    assert charts(saved) == ["reliability", "flip_rate", "effect_size"]
    pinned = runs["runFeed"]["columnPinned"]
    for part in ("", "_low", "_high", "_n"):
        assert f"summary:reliability{part}" in pinned


def test_the_report_has_panels_for_every_intent_and_dataset_that_ran(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for grid in grids(dry(results, capsys)):
        (runs,) = grid["runSets"]
        assert filters(runs)["group"] == "mine"
        found[filters(runs)["intent"], filters(runs)["dataset"]] = charts(grid)
    assert found == {
        ("replace", "blimp"): ["reliability", "flip_rate", "effect_size"],
        ("replace", "pararel"): ["reliability"],
        ("erase", "pararel"): ["reliability"],
    }


def test_nothing_is_averaged_over_runs(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = dry(results, capsys)
    for node in nodes(saved):
        assert not node.get("grouping")
        if node.get("viewType") == "Bar Chart":
            config = node["config"]
            assert not any(config[k] for k in ("groupBy", "groupAgg", "groupArea", "aggregate"))
            assert "${summary:intent}" in config["legendTemplate"]


def test_intents_have_tables_of_their_own_with_intervals_and_n(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *by_intent, everything = tables(dry(results, capsys))
    for table in by_intent:
        assert ("| replace |" in table) != ("| erase |" in table)
        assert "0.50 &#91;0.40, 0.60&#93; n=40" in table
        assert "tau" not in table
    assert len(everything.splitlines()) == 2 + 3
    assert "tau" in everything


def test_the_tables_and_figures_that_the_runs_logged_are_shown(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = dry(results, capsys)
    replaced, _, erased = grids(saved)
    for grid in (replaced, erased, saved["workspace"]):
        text = json.dumps(grid)
        assert all(f'"{name}"' in text for name in ("metrics", "examples", "headline"))
    assert "located_by_layer" in json.dumps(erased)
    assert "located_by_layer" not in json.dumps(replaced), "no run of it located neurons"


def test_panels_of_a_grid_do_not_overlap(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for grid in grids(dry(results, capsys)):
        taken: set[tuple[int, int]] = set()
        for panel in (n for n in nodes(grid) if "viewType" in n):
            at = panel["layout"]
            assert at["x"] + at["w"] <= spec.COLUMNS
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert not cells & taken
            taken |= cells


def test_the_report_says_what_ran_on_what_data_and_commit(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = json.dumps(dry(results, capsys)["report"])
    for wanted in ("tiny_gpt2 (bundled data) (3 runs)", "kn (erase) (1 run)", "0123456789ab"):
        assert wanted in text


def test_runs_that_differ_in_a_setting_are_named_by_it(tmp_path: Path) -> None:
    summaries = [
        {
            **{"run_id": str(layer), "model": "m", "source": "s", "dataset": "d", "method": "rome"},
            **{"intent": "replace", "cases": 1, "seed": 0, "sweep": "mine"},
            **{"settings": {"method.layer": str(layer)}, "metrics": {"reliability": estimate()}},
        }
        for layer in (1, 2)
    ]
    workspace = spec.workspace(summaries, spec.Place("lab", "kn", "mine", runs=2))
    assert "method.layer=${config:method.layer}" in json.dumps(workspace._spec)


def test_more_runs_than_wandb_shows_by_default_are_all_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(30):
        write_run(tmp_path, f"run{index}", seed=index)
    saved = dry(tmp_path, capsys)
    assert saved["workspace"]["spec"]["section"]["settings"]["maxRuns"] == 30
    limits = [n["config"]["limit"] for n in nodes(saved) if n.get("viewType") == "Bar Chart"]
    assert set(limits) == {30}


def test_hostile_text_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, "a", model=HOSTILE, dataset=HOSTILE, method=HOSTILE)
    for table in tables(dry(tmp_path, capsys)):
        assert len(table.splitlines()) == 3
        assert len({line.count("|") for line in table.splitlines()}) == 1
        for sign in ("<", ">", "`", "[", "$", "*"):
            assert sign not in table


@pytest.mark.parametrize(
    "name", ["lr=0.1", "it's", 'say "x"', "x and y = 'z'", "a <b>= c", "ünï 🙂"]
)
def test_a_sweep_is_found_whatever_its_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, "a", sweep=name)
    saved = dry(tmp_path, capsys, name)
    (runs,) = saved["workspace"]["spec"]["section"]["runSets"]
    assert filters(runs) == {"group": name}


def test_a_very_long_name_is_cut_to_what_wandb_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, "a", sweep="x" * 200)
    saved = dry(tmp_path, capsys, "x" * 200)
    assert len(saved["report"]["displayName"]) == spec.TITLE_LENGTH


@pytest.mark.parametrize(
    ("tracker", "message"),
    [
        ({"project": "other", "entity": "lab"}, "more than one project: kn, other; choose"),
        ({"project": "kn", "entity": "us"}, "more than one entity: lab, us; choose"),
    ],
)
def test_where_to_save_is_asked_for_if_the_runs_do_not_say(
    tracker: dict[str, Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    write_run(tmp_path, "a", tracker=tracker)
    if "more than one" in message:
        write_run(tmp_path, "b", seed=1)
    assert main([str(tmp_path / "mine"), "--dry-run"]) == 1
    assert message in capsys.readouterr().err
    assert main([str(tmp_path / "mine"), "--dry-run", "--entity", "me", "--project", "p"]) == 0


@pytest.mark.parametrize(
    "tracker",
    [{"project": "kn", "entity": None}, {"_target_": "kn_sweeps.dashboards.tracker.NoTracker"}],
)
def test_only_what_is_saved_needs_an_entity(
    tracker: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    write_run(tmp_path, "a", tracker=tracker)
    assert main([str(tmp_path / "mine"), "--dry-run"]) == 0
    assert "ENTITY" in json.dumps(json.loads(capsys.readouterr().out)["workspace"])
    assert main([str(tmp_path / "mine")]) == 1
    assert "give the team or user with --entity NAME" in capsys.readouterr().err


def test_a_folder_of_several_sweeps_or_of_none_is_refused(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(results, "a", sweep="other")
    assert main([str(results), "--dry-run"]) == 1
    assert "2 sweeps: mine, other; name one" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "there are no runs in" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 1
    assert "there are no runs in" in capsys.readouterr().err


def test_without_the_extra_it_says_how_to_install_it(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(analysis, "wandb_spec")
    monkeypatch.delitem(sys.modules, "analysis.wandb_spec")
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)  # type: ignore[arg-type]
    assert main([str(results / "mine")]) == 1
    assert "pip install wandb-workspaces" in capsys.readouterr().err


READ = """
import json, sys
import wandb_workspaces.reports.v2 as wr, wandb_workspaces.workspaces as ws
workspace, report = ws.Workspace.from_url(sys.argv[1]), wr.Report.from_url(sys.argv[2])
grids = [block for block in report.blocks if isinstance(block, wr.PanelGrid)]
def shown(panels):
    return [panel.title for panel in panels if isinstance(panel, wr.BarPlot)]
print(json.dumps({
    "title": [workspace.name, report.title],
    "of": workspace.runset_settings.filters,
    "panels": {one.name: shown(one.panels) for one in workspace.sections},
    "grids": [[shown(one.panels), [[r.entity, r.project, r.filters] for r in one.runsets]]
              for one in grids],
}))
"""


def client(
    server: WandbServer, home: Path, *arguments: str, **more: str
) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own that has the server."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **server.environment(str(home)), **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


SAVE = ("-m", "analysis.wandb_report")


def test_what_was_saved_is_read_back_from_the_server(
    results: Path, wandb_server: WandbServer, tmp_path: Path
) -> None:
    for name in "abc":
        wandb_server.runs[name] = Run(name, "lab", "kn", group="mine", state="finished")
    done = client(wandb_server, tmp_path, *SAVE, str(results / "mine"))
    assert done.returncode == 0, done.stderr
    addresses = [line.split()[-1] for line in done.stdout.splitlines()]
    assert [one.startswith(f"{wandb_server.url}/lab/kn") for one in addresses] == [True] * 2
    assert {view.kind for view in wandb_server.views.values()} == {"project-view", "runs"}
    read = client(wandb_server, tmp_path, "-c", READ, *addresses)
    assert read.returncode == 0, read.stderr
    found = json.loads(read.stdout.splitlines()[-1])
    every = ["reliability", "flip_rate", "effect_size"]
    assert found["title"] == ["kn_sweeps: mine"] * 2
    assert found["of"] == "Metric(\"Group\") == 'mine'"
    assert found["panels"] == {"Comparison": every, "Figures": [], "Tables": [], "What differs": []}
    runs = {
        ("replace", "blimp"): every,
        ("replace", "pararel"): ["reliability"],
        ("erase", "pararel"): ["reliability"],
    }
    group = 'Metric("Group") == \'mine\' and SummaryMetric("intent") == '
    assert found["grids"] == [
        [shown, [["lab", "kn", f"{group}'{intent}' and SummaryMetric(\"dataset\") == '{dataset}'"]]]
        for (intent, dataset), shown in runs.items()
    ]
    text = json.loads(next(v.spec for v in wandb_server.views.values() if v.kind == "runs"))
    sets = [one for node in nodes(text) for one in node.get("runSets", [])]
    assert [one["project"]["id"] for one in sets] == [INTERNAL_ID] * 3
    assert not wandb_server.unknown


def test_without_uploaded_runs_nothing_is_saved_and_it_says_to_upload(
    results: Path, wandb_server: WandbServer, tmp_path: Path
) -> None:
    wandb_server.runs["a"] = Run("a", "lab", "kn", group="another")
    done = client(wandb_server, tmp_path, *SAVE, str(results / "mine"))
    assert done.returncode == 1
    assert "lab/kn has no run of the sweep mine" in done.stderr
    assert "kn-sweeps sync mine" in done.stderr
    assert not wandb_server.views


@pytest.mark.parametrize(
    ("key", "said"),
    [("x" * 40, "user is not logged in"), ("k" * 40, "read only")],
)
def test_a_server_that_refuses_is_one_message(
    key: str, said: str, results: Path, wandb_server: WandbServer, tmp_path: Path
) -> None:
    wandb_server.runs["a"] = Run("a", "lab", "kn", group="mine")
    wandb_server.fails("[uU]psertView", 403, text="read only")
    done = client(wandb_server, tmp_path, *SAVE, str(results / "mine"), WANDB_API_KEY=key)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: could not save to W&B, project lab/kn: ")
    assert said in line
    assert not done.stdout
    assert not wandb_server.views
