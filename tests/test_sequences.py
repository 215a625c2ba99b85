"""Runs whose edits are in effect together: batches, sequences and their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kn_sweeps.records.chunks import Chunks
from kn_sweeps.run import run
from tests.test_run import ROME, Make, maker


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    return maker(tmp_path, monkeypatch)


@pytest.mark.parametrize("each", [None, 2])
def test_a_sequence_is_scored_after_each_and_after_all(config: Make, each: int | None) -> None:
    settings = ("regime=sequential", f"edits_per_batch={each or 'null'}", "metric=[forgetting]")
    outcome = run(config(*settings, method=ROME))
    rows = pd.read_parquet(outcome.directory / "rows.parquet")
    counts = rows.groupby("case")["after"].value_counts().unstack()
    assert (counts["all"] == counts["edit"]).all()
    assert len(counts) == 6
    # The last step is scored with all edits in effect either time.
    last = rows["case"] == rows[rows["after"] == "edit"]["case"].iloc[-1]
    now, end = (rows[last & (rows["after"] == when)] for when in ("edit", "all"))
    assert now["post_log_prob_new"].to_numpy() == pytest.approx(
        end["post_log_prob_new"].to_numpy(), abs=1e-4
    )
    first = rows["case"] == rows["case"].iloc[0]
    now, end = (rows[first & (rows["after"] == when)] for when in ("edit", "all"))
    assert now["post_log_prob_new"].to_numpy() != pytest.approx(
        end["post_log_prob_new"].to_numpy(), abs=1e-4
    )
    assert set(outcome.summary["metrics"]) >= {"forgetting", "reliability_after_all"}


@pytest.mark.parametrize("stop_at", [2, 7])
def test_a_sequence_cut_off_goes_on_with_the_same_rows(
    config: Make, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    settings = ("regime=sequential", "metric=[forgetting]", "evaluate_every=2")
    expected = run(config(*settings, "sweep=whole", method=ROME))
    original = Chunks.add

    def stopping(self: Any, chunk: int, *args: Any, **about: Any) -> None:
        if chunk == stop_at:
            raise KeyboardInterrupt
        original(self, chunk, *args, **about)

    with monkeypatch.context() as patch:
        patch.setattr(Chunks, "add", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(config(*settings, "sweep=cut", method=ROME))
    resumed = run(config(*settings, "sweep=cut", method=ROME))
    pd.testing.assert_frame_equal(
        *(pd.read_parquet(one.directory / "rows.parquet") for one in (resumed, expected))
    )


def test_at_checkpoints_a_sample_is_scored_with_the_edits_so_far(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Chunks, "forget", lambda _: None)  # what it kept is looked at
    settings = ("regime=sequential", "evaluate_every=[1,4,6]", "evaluate_sample=3")
    outcome = run(config(*settings, "metric=[forgetting]", method=ROME))
    rows = pd.read_parquet(outcome.directory / "rows.parquet")
    own, seen, end = (rows[rows["after"] == when] for when in ("edit", "checkpoint", "all"))
    assert list(dict.fromkeys(own["made"])) == [1, 2, 3, 4, 5, 6]
    assert list(dict.fromkeys(own["step"])) == [0, 1, 2, 3, 4, 5]
    assert dict(seen.groupby("made")["case"].nunique()) == {1: 1, 4: 3, 6: 3}
    assert dict(seen.groupby("made")["step"].unique().map(list)) == {1: [0], 4: [3], 6: [5]}
    assert set(end["made"]) == {6}
    order = list(dict.fromkeys(own["case"]))
    for made, some in seen.groupby("made"):
        assert list(dict.fromkeys(some["case"])) == [
            case for case in order[: int(str(made))] if case in set(some["case"])
        ]
    # With all edits in effect, those asked at the checkpoint say what all say.
    key = ["case", "probe"]
    last = seen[seen["made"] == 6].set_index(key)["post_log_prob_new"]
    pd.testing.assert_series_equal(
        last, end.set_index(key)["post_log_prob_new"].loc[last.index], atol=1e-4
    )
    # One that is asked again later is asked with more edits in effect.
    first = seen[seen["made"] == 1].set_index(key)["post_log_prob_new"]
    right_after = own.set_index(key)["post_log_prob_new"].loc[first.index]
    pd.testing.assert_series_equal(first, right_after, atol=1e-4)
    numbers = outcome.summary["metrics"]
    assert numbers["reliability_after_4"]["n"] == 3
    assert {"held_after_1", "locality_after_6", "generality_after_6"} <= set(numbers)


def test_a_batch_is_in_effect_at_once(config: Make) -> None:
    alone = run(config(method=ROME))
    one_by_one = run(config("regime=batch", "edits_per_batch=1", method=ROME))
    at_once = run(config("regime=batch", method=ROME))
    single, same, other = (
        pd.read_parquet(run.directory / "rows.parquet")["post_log_prob_new"].to_numpy()
        for run in (alone, one_by_one, at_once)
    )
    assert same == pytest.approx(single, abs=1e-4)
    assert other != pytest.approx(single, abs=1e-2)
