"""A run from config to summary: once, resumed, repeated, re-scored, and broken in the middle."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from kn_sweeps.evaluation import regimes
from kn_sweeps.progress import pace
from kn_sweeps.records.chunks import Chunks
from kn_sweeps.records.run_directory import RunDirectory
from kn_sweeps.records.status import Progress
from kn_sweeps.run import run
from tests.test_config import composed

QUICK = ("tracker=none", "attribution_cache_gib=0", "metric=[reliability,locality,localisation]")
FACTS = ("dataset=pararel", "dataset.relations=[P36,P101]", "limit=3")
KN = ("method=kn", "method.quadrature=riemann", "method.steps=2")
ROME = ("method=rome", "method.steps=3")


Make = Callable[..., dict[str, Any]]


def maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """What composes configs of short runs in small chunks."""
    monkeypatch.setattr(regimes, "CHUNK", 2)

    def make(
        *overrides: str, data: tuple[str, ...] = FACTS, method: tuple[str, ...] = KN
    ) -> dict[str, Any]:
        results = f"results_dir={tmp_path / 'results'}"
        return composed(*QUICK, *data, *method, results, *overrides)

    return make


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    return maker(tmp_path, monkeypatch)


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cases evaluated from now on."""
    done: list[str] = []
    original = regimes.evaluate

    def evaluate(lm: Any, cases: Any, *args: Any, **kwargs: Any) -> Any:
        rows = original(lm, cases, *args, **kwargs)
        done.extend(case.id for case in cases)
        return rows

    monkeypatch.setattr(regimes, "evaluate", evaluate)
    return done


def test_a_run_leaves_all_its_files(config: Make) -> None:
    outcome = run(config())
    names = {path.name for path in outcome.directory.iterdir() if not path.name.startswith(".")}
    assert names == {
        *("config.yaml", "rows.parquet", "summary.json", "provenance.json", "neurons.json"),
        *("attributions.safetensors", "edits.safetensors", "run.log"),
        *("status.json", "progress.jsonl"),
    }
    summary = json.loads((outcome.directory / "summary.json").read_text())
    assert summary["run_id"] == outcome.directory.name
    assert (summary["model"], summary["source"], summary["dataset"]) == (
        *("tiny_gpt2", "bundled", "pararel"),
    )
    assert (summary["method"], summary["intent"], summary["cases"]) == ("kn", "erase", 6)
    for estimate in summary["metrics"].values():
        assert set(estimate) == {"value", "low", "high", "n"}
    rows = pd.read_parquet(outcome.directory / "rows.parquet")
    assert rows["case"].nunique() == 6
    assert set(rows["kind"]) == {"edit", "rephrase", "neighbour", "reversal", "synonym"}
    provenance = json.loads((outcome.directory / "provenance.json").read_text())
    assert set(provenance["stages"]) >= {"load model", "load cases", "edit and evaluate"}
    assert provenance["model_revision"]


def test_a_run_tells_how_far_its_step_is_and_computes_the_same(
    config: Make,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "kn_sweeps")
    quiet = run(config("sweep=quiet", method=ROME)).directory
    said: list[str] = []
    original = Progress.within

    def within(self: Progress, text: str) -> None:
        original(self, text)
        (status,) = tmp_path.glob("results/told/*/status.json")
        said.append(json.loads(status.read_text())["within"])

    monkeypatch.setattr(Progress, "within", within)
    for name in ("_LINE_S", "_STATUS_S", "_LOG_S", "_FIRST_LOG_S"):
        monkeypatch.setattr(pace, name, 0.0)
    told = run(config("sweep=told", method=ROME)).directory
    assert any(text.startswith("optimisation step 3 of 3, ") for text in said)
    assert any(text.startswith("round of questions 2 of 2") for text in said)
    assert all(" left" in text for text in said if "step 2" in text)
    assert "optimisation step 2 of 3, " in (told / "run.log").read_text()
    assert json.loads((told / "status.json").read_text())["within"] == ""
    pd.testing.assert_frame_equal(
        *(pd.read_parquet(path / "rows.parquet") for path in (quiet, told)), check_exact=True
    )


def test_a_done_run_is_skipped_and_rerun_repeats_it(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = _counted(monkeypatch)
    first = run(config())
    assert len(done) == 6
    assert not run(config()).computed
    assert len(done) == 6
    before = pd.read_parquet(first.directory / "rows.parquet")
    assert run(config("rerun=true")).computed
    assert len(done) == 12
    pd.testing.assert_frame_equal(pd.read_parquet(first.directory / "rows.parquet"), before)


def test_a_rerun_that_fails_loses_nothing(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(config())
    before = {path.name: path.read_bytes() for path in first.directory.glob("*.parquet")}

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(regimes, "evaluate", fail)
        with pytest.raises(RuntimeError, match="broken"):
            run(config("rerun=true"))
    assert {path.name: path.read_bytes() for path in first.directory.glob("*.parquet")} == before
    assert not run(config()).computed


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError, OSError(errno.ENOSPC, "full")])
def test_a_run_cut_off_goes_on_with_the_same_rows(
    config: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: Any,
) -> None:
    expected = pd.read_parquet(run(config("sweep=whole")).directory / "rows.parquet")
    done = _counted(monkeypatch)
    original = Chunks.add

    def full(self: Any, chunk: int, *args: Any, **about: Any) -> None:
        if chunk == 1:
            raise stop
        original(self, chunk, *args, **about)

    with monkeypatch.context() as patch:
        patch.setattr(Chunks, "add", full)
        with pytest.raises((KeyboardInterrupt, MemoryError, OSError)):
            run(config("sweep=cut"))
    (directory,) = (tmp_path / "results" / "cut").iterdir()
    assert not (directory / "summary.json").exists()
    assert "ended early" in (directory / "run.log").read_text()
    assert len(done) == 1 + 2  # a first step of one edit, then steps of two
    outcome = run(config("sweep=cut"))
    assert len(done) == 3 + 5  # the first chunk is not done again
    assert outcome.directory == directory
    pd.testing.assert_frame_equal(pd.read_parquet(directory / "rows.parquet"), expected)


def test_what_is_measured_is_kept_goes_on_and_is_joined_over_shards(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing = ("measurement=[tracing]", "measurement.tracing.samples=1", "metric=[tracing]")
    whole = run(config(*tracing, "sweep=whole")).directory
    table = RunDirectory(whole).measurements()["tracing"]
    assert table["case"].nunique() == pd.read_parquet(whole / "rows.parquet")["case"].nunique()
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["metrics"]["total_effect"]["n"] == table["case"].nunique()

    original = Chunks.add

    def stopping(self: Any, chunk: int, *args: Any, **about: Any) -> None:
        original(self, chunk, *args, **about)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Chunks, "add", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(config(*tracing, "sweep=cut"))
    cut = RunDirectory(run(config(*tracing, "sweep=cut")).directory)
    pd.testing.assert_frame_equal(cut.measurements()["tracing"], table)

    shards = [run(config(*tracing, "sweep=cut", f"shard={n}/2")).directory for n in (0, 1)]
    found = pd.concat([RunDirectory(path).measurements()["tracing"] for path in shards])
    order = ["case", "component", "role", "layer"]
    pd.testing.assert_frame_equal(
        found.sort_values(order, ignore_index=True), table.sort_values(order, ignore_index=True)
    )


def test_a_full_disk_leaves_no_half_file(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Any, path: Any, **__: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(OSError, match="No space left"):
            run(config())
    (directory,) = (tmp_path / "results" / "default").iterdir()
    assert not list(directory.rglob("*.parquet"))
    assert not list((directory / "parts").glob(".*"))
    assert run(config()).computed


def test_what_is_not_certified_is_said_and_listed(
    config: Make, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = run(config())  # a fixed rule is never certified
    assert "100.0 % of" in caplog.text
    assert "not certified" in caplog.text
    assert outcome.summary["metrics"]["uncertified"]["value"] == 1
    located = json.loads((outcome.directory / "neurons.json").read_text())
    for certificate in (one for entry in located for one in entry["certificates"]):
        assert len(certificate["residual"]) == len(certificate["certified"])
        assert set(certificate["nodes"]) == {2}
    caplog.clear()
    fine = run(config(method=("method=kn", "method.tol=0.05")))
    assert fine.summary["metrics"]["uncertified"]["value"] < 1


def test_attributions_are_shared_between_runs(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KN_SWEEPS_CACHE", str(tmp_path / "cache"))
    first = run(config("attribution_cache_gib=1"))
    kept = len(list((tmp_path / "cache" / "attributions").rglob("*.safetensors")))
    second = run(config("attribution_cache_gib=1", "method.threshold=0.3"))
    assert first.directory != second.directory
    assert kept > 0
    assert len(list((tmp_path / "cache" / "attributions").rglob("*.safetensors"))) == kept


def test_other_metrics_are_computed_from_the_rows_alone(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = _counted(monkeypatch)
    first = run(config())
    assert "generality" not in first.summary["metrics"]
    again = run(config("metric=[generality,reliability]"))
    assert again.directory == first.directory
    assert not again.computed
    assert len(done) == 6
    assert set(again.summary["metrics"]) >= {"generality", "reliability"}
    for name, value in first.summary["metrics"].items():
        assert again.summary["metrics"][name] == value


def test_shards_hold_every_case_once_with_the_same_rows(
    config: Make,
) -> None:
    whole = pd.read_parquet(run(config()).directory / "rows.parquet")
    parts = [
        pd.read_parquet(run(config(f"shard={i}/2")).directory / "rows.parquet") for i in range(2)
    ]
    joined = pd.concat(parts).set_index(["case", "probe"]).sort_index()
    expected = whole.set_index(["case", "probe"]).sort_index()
    pd.testing.assert_frame_equal(joined, expected, rtol=1e-4, atol=1e-5)


def test_an_empty_shard_is_refused(config: Make) -> None:
    with pytest.raises(ValueError, match="no case is left for tiny_gpt2, shard 40/50"):
        run(config("shard=40/50"))


def test_two_processes_do_not_work_on_one_run(config: Make) -> None:
    first = run(config())
    directory = RunDirectory(first.directory)
    with directory.opened(), pytest.raises(ValueError, match="another process is working on run"):
        run(config())


def test_groups_that_share_an_edit_stay_in_one_chunk(config: Make) -> None:
    pairs = ("dataset=blimp", "dataset.paradigms=[anaphor_gender_agreement]", "limit=5")
    outcome = run(config(data=pairs))
    located = json.loads((outcome.directory / "neurons.json").read_text())
    assert len({found["edit"] for found in located}) == len(located)
    assert sum(len(found["cases"]) for found in located) == 5


def test_what_a_tokenizer_does_not_know_is_left_out_and_said(
    config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    for part, rows in (
        ("patterns", [{"pattern": "The capital of [X] is [Y]."}]),
        (
            "facts",
            [{"sub_label": "France", "obj_label": o} for o in ("Paris", "Xyzzy")]
            + [{"sub_label": "Italy", "obj_label": "Rome"}],
        ),
    ):
        (folder / part).mkdir(parents=True)
        (folder / part / "P36.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    outcome = run(config("dataset.relations=[P36]", f"dataset.root={folder}", "limit=null"))
    assert outcome.summary["source"] == "local"
    assert outcome.summary["cases"] < 3
    assert "not in the tokenizer's vocabulary" in caplog.text


def test_the_same_config_gives_the_same_rows_bit_for_bit(
    config: Make,
) -> None:
    frames = [
        pd.read_parquet(run(config(f"sweep={name}", method=ROME)).directory / "rows.parquet")
        for name in ("a", "b")
    ]
    pd.testing.assert_frame_equal(*frames, check_exact=True)


def test_edits_are_kept_for_export_within_bounds(config: Make) -> None:
    kept = RunDirectory(run(config(method=ROME)).directory)
    rows = kept.rows()
    assert list(kept.edits()) == list(dict.fromkeys(rows["edit"]))
    without = run(config("keep_edits_gib=0", "sweep=none", method=ROME))
    with pytest.raises(ValueError, match="did not keep its edits; raise keep_edits_gib"):
        RunDirectory(without.directory).edits()


def test_the_rows_of_kn_depend_neither_on_the_cache_nor_on_the_steps(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KN_SWEEPS_CACHE", str(tmp_path / "cache"))
    method = ("method=kn", "method.tol=0.05")

    def located(*more: str, size: int = 2) -> list[Any]:
        monkeypatch.setattr(regimes, "CHUNK", size)
        directory = RunDirectory(run(config(*more, method=method)).directory)
        scores = directory.attributions()
        return [{name: scores[name].tobytes() for name in sorted(scores)}, directory.located()]

    cold = located("sweep=none")
    assert located("sweep=other_steps", size=16) == cold
    run(config("sweep=some", "attribution_cache_gib=1", "limit=2", method=method))
    for name in ("warm", "warmer"):
        assert located(f"sweep={name}", "attribution_cache_gib=1") == cold
