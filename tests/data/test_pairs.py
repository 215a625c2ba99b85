"""Minimal pairs of one's own: all of them are edits, unless they say that they judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kn_sweeps.cases import Case, LeftOut
from kn_sweeps.data.pairs import Pairs

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def loaded(path: Path, kind: str = "causal", **options: Any) -> tuple[list[Case], list[LeftOut]]:
    found = Pairs(path=str(path), **options).load(kind, seed=0, limit=None, editable=True)  # type: ignore[arg-type]
    return sorted(found.cases, key=lambda case: case.id), list(found.left_out)


def table(tmp_path: Path, head: str, *rows: str) -> Path:
    path = tmp_path / "own.tsv"
    path.write_text("\n".join([head, *rows]).replace(" | ", "\t") + "\n")
    return path


def test_the_critical_word_and_the_trigger_are_found_and_pairs_may_judge() -> None:
    (first, second, third), reports = loaded(EXAMPLES / "pairs.tsv")
    assert [case.source for case in (first, second, third)] == ["attractors"] * 2 + ["reflexives"]
    assert first.edit is not None
    assert (first.edit.old, first.edit.new) == ("sleep", "sleeps")
    assert first.edit.query.subject_text == "cats"
    assert [p.kind for p in first.probes].count("rephrase") == 1
    assert reports[0].reasons == {"held out to judge edits": 1}


def test_ten_pairs_are_ten_edits_and_a_share_may_judge(tmp_path: Path) -> None:
    rows = [f"So cat {n} sees. | So cat {n} see." for n in range(10)]
    path = table(tmp_path, "good | bad", *rows)
    cases, (report,) = loaded(path)
    assert len(cases) == report.used == 10
    assert not report.reasons
    cases, (report,) = loaded(path, seen_share=0.5)
    assert len(cases) == 5
    assert report.reasons == {"held out to judge edits": 5}


def test_what_cannot_be_used_is_counted_and_columns_are_named(tmp_path: Path) -> None:
    rows = [
        "He sees. | He see. | x",
        "He sees. | He see. | x",
        "He. | He. | x",
        "He is. | He is so. | x",
    ]
    cases, (report,) = loaded(table(tmp_path, "sentence_good | sentence_bad | rol", *rows))
    assert len(cases) == 1
    assert report.reasons == {
        "listed before": 1,
        "its two sentences are equal": 1,
        "the sentences do not differ by an exchange of words": 1,
    }
    assert report.notes == {"the column 'rol' is not used (did you mean role?)": 1}


@pytest.mark.parametrize(
    ("head", "row", "message"),
    [
        (
            "good | bda",
            "a | b",
            r"no column 'bad'; the columns are 'good', 'bda'; 'bda' \(did you mean bad",
        ),
        ("good | bad", " | b", "own.tsv, row 1, column 'good': there is no sentence"),
        (
            "good | bad | role",
            "He a. | He b. | x",
            "row 1, column 'role': a role is edit or judge: got 'x'",
        ),
        (
            "good | bad | trigger",
            "He a. | He b. | x",
            "column 'trigger': trigger='x' stands 0 times",
        ),
    ],
)
def test_a_bad_table_is_refused_with_its_place(
    tmp_path: Path, head: str, row: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        loaded(table(tmp_path, head, row))
