"""A run says by which protocol its numbers came about."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis import table
from kn_sweeps.records.run_directory import RunDirectory
from kn_sweeps.records.summary import protocol
from kn_sweeps.run import run
from tests.test_config import composed


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("method=rome",), ("scorer exact;", "right after its own edit, alone in", "the data's")),
        (("method=rome", "max_answer_tokens=9"), ("scorer exact, beside it generated, contains;",)),
        (
            ("method=memit", "regime=batch", "metric.generality.scorer=token"),
            ("reliability exact, generality token", "with all cases' edits in effect at once"),
        ),
        (
            ("method=ft", "regime=sequential", "edits_per_batch=3", "scorer=argmax"),
            ("scorer argmax;", "3 cases a step on top of those before; NAME_after_all, once"),
        ),
        (("method=rome", "+dataset.writes=alt"), ("writes alt",)),
        (("method=rome", "model.chat=true"), ("in effect; through the chat template; pre",)),
    ],
)
def test_it_names_scorer_time_pre_and_what_was_written(
    overrides: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    found = protocol(composed(*overrides), "replace")
    for part in (*expected, "pre is the unedited model"):
        assert part in found
    assert protocol(composed(*overrides), "erase").endswith("the old answer should go")


def test_the_table_and_a_run_that_is_scored_again_have_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("method=none", "dataset=pararel", "dataset.relations=[P36]", "limit=1", "tracker=none")
    where = (*asked, f"results_dir={tmp_path}", "metric=[reliability]")
    directory = RunDirectory(run(composed(*where)).directory)
    before = directory.summary()["protocol"]
    assert before == protocol(directory.config(), "replace")
    run(composed(*where, "scorer=token"))
    after = directory.summary()["protocol"]
    assert (before.split(";")[0], after.split(";")[0]) == ("scorer exact", "scorer token")
    assert table.main([str(tmp_path)]) == 0
    assert f"protocol: {after}" in capsys.readouterr().err
    assert f"- protocol: {after}" in (tmp_path / "table.md").read_text()
    assert after in (tmp_path / "table.csv").read_text()


def test_a_protocol_says_whose_values_are_untuned() -> None:
    for overrides in (["method=ft"], ["method=random", "method@method.of=ft"]):
        assert "; with untuned values of ft; " in protocol(
            composed("model=mistral_7b", *overrides), "replace"
        )
    assert "untuned" not in protocol(composed("model=mistral_7b", "method=rome"), "replace")
