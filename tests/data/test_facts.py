"""Facts of one's own: every spelling is found, nothing is passed over in silence."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from kn_sweeps.cases import Case, LeftOut, Probe, Query
from kn_sweeps.data.facts import Facts
from kn_sweeps.data.tables import Fault

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def loaded(path: Path, **options: Any) -> tuple[list[Case], LeftOut]:
    limit, kind = options.pop("limit", None), options.pop("kind", "causal")
    found = Facts(path=str(path), **options).load(kind, seed=0, limit=limit, editable=True)
    (report,) = found.left_out
    return sorted(found.cases, key=lambda case: case.id), report


def made(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> tuple[list[Case], LeftOut]:
    path = tmp_path / "own.json"
    path.write_text(json.dumps(rows))
    return loaded(path, **options)


def probes(case: Case) -> list[tuple[str, str, str, str]]:
    return [(p.kind, p.query.text, p.old, p.new) for p in case.all_probes]


def test_a_table_has_an_edit_a_row_with_its_questions() -> None:
    (france, _), report = loaded(EXAMPLES / "facts.csv")
    assert (report.used, report.reasons, report.notes) == (2, {}, {})
    assert probes(france) == [
        ("edit", "The capital of France is ___", "Paris", "Rome"),
        ("rephrase", "France's capital city is ___", "Paris", "Rome"),
        ("rephrase", "The French government sits in ___", "Paris", "Rome"),
        ("neighbour", "The capital of Germany is ___", "Berlin", "Berlin"),
        ("reversal", "Rome is the capital of ___", "", "France"),
    ]
    assert france.edit is not None
    assert france.edit.query.subject_text == "France"
    assert france.essence == Query("France is a ", "", (0, 6))
    assert [p.rival for p in france.probes if p.kind == "neighbour"] == ["Rome"]
    assert {p.group for p in france.probes if p.kind == "reversal"} == {"reversed"}


def test_json_has_lists_aliases_and_sets_and_answers_that_nobody_knows() -> None:
    (brazil, sweden), report = loaded(EXAMPLES / "facts.json")
    assert not report.notes
    assert brazil.edit is not None
    assert brazil.edit.old_aliases == ("Brazilian Portuguese",)
    assert [(p.kind, p.group, p.old, p.new) for p in brazil.probes] == [
        ("rephrase", "", "Portuguese", "Dutch"),
        ("neighbour", "others", "Spanish", "Spanish"),
        ("neighbour", "others", "", ""),
        ("portability", "two_hops", "", "Dutch"),
        ("synonym", "", "", "Nederlands"),
    ]
    assert sweden.edit == Probe(
        Query("The currency of Sweden is the ", "", (16, 22)), "", "euro", "edit"
    )


def test_a_slot_may_stand_in_the_middle() -> None:
    (italy, _), report = loaded(EXAMPLES / "facts.jsonl", kind="masked")
    assert [text for _, text, *_ in probes(italy)] == [
        "The capital of Italy is ___.",
        "___ is the capital of Italy.",
    ]
    assert not report.notes
    _, report = loaded(EXAMPLES / "facts.jsonl")
    (note,) = report.notes
    assert note == "texts go on behind the answer, which a causal LM does not read"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "The capital of {} is", "subject": "Peru", "old": "Lima", "new": "Rome"},
        {
            "Prompt": "The capital of Peru is",
            "subject": "peru",
            "ground_truth": ["Lima"],
            "target_new": "Rome",
        },
        {"src": "The capital of [X] is", "subject": "Peru", "answers": [["Lima"]], "alt": "Rome"},
        {
            "question": "The capital of Peru is",
            "entity": "Peru",
            "target_true": "Lima",
            "target": "Rome",
        },
        {"prompt": " The capital of {Peru} is ", "old": "Lima ", "targetNew": "Rome"},
    ],
)
def test_many_names_mean_one_thing(tmp_path: Path, row: dict[str, Any]) -> None:
    ((case,), _) = made(tmp_path, row)
    assert case.edit == Probe(
        Query("The capital of Peru is ", "", (15, 19)), "Lima", "Rome", "edit"
    )


FACT = {"prompt": "The capital of Peru is", "subject": "Peru", "old": "Lima", "new": "Rome"}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            {"locality": {"Relation_Specificity": [{"prompt": "Q", "ground_truth": [["a", "b"]]}]}},
            [("neighbour", "relation_specificity", "a", ("b",))],
        ),
        (
            {"locality": [{"prompt": "Q", "ground_truth": "a"}, {"prompt": "R"}]},
            [("neighbour", "others", "a", ()), ("neighbour", "others", "", ())],
        ),
        (
            {"locality": {"neighborhood": {"prompt": ["Q", "R"], "ground_truth": ["a", "b"]}}},
            [("neighbour", "neighborhood", "a", ()), ("neighbour", "neighborhood", "b", ())],
        ),
        (
            {"locality_prompt": "Q", "locality_ground_truth": ["a", "b"]},
            [("neighbour", "others", "a", ("b",))],
        ),
        ({"loc": "nq question: who", "loc_ans": "a"}, [("neighbour", "others", "a", ())]),
        (
            {"portability": {"Recalled Relation": "(r)", "New Question": "Q", "New Answer": "a"}},
            [("portability", "", "a", ())],
        ),
        ({"mhop": "Q", "mhop_ans": "a"}, [("portability", "", "a", ())]),
        (
            {"neighbour": [["Q", "a"]], "neighbour_2": "R", "neighbour_2_answer": "b"},
            [("neighbour", "others", "a", ()), ("neighbour", "others", "b", ())],
        ),
        (
            {"rephrase_prompt": "Q", "personas": "R"},
            [("rephrase", "", "Rome", ()), ("rephrase", "", "Rome", ())],
        ),
        ({"portability": {"Subject_Aliasing": None, "Reasoning": []}}, []),
    ],
)
def test_nested_questions_of_published_layouts_are_read(
    tmp_path: Path, more: dict[str, Any], expected: list[tuple[Any, ...]]
) -> None:
    ((case,), report) = made(tmp_path, FACT | more)
    assert [(p.kind, p.group, p.new, p.new_aliases) for p in case.probes] == expected
    assert not report.notes
    assert not any("nq question" in p.query.text for p in case.probes)


def test_a_question_that_is_there_twice_is_used_once_and_conflicts_are_told(tmp_path: Path) -> None:
    other = FACT | {"prompt": "The  capital of {} is", "new": "Bonn"}
    same = FACT | {"old": "Rome "}
    cases, report = made(tmp_path, FACT, dict(FACT), other, FACT | {"subject": "Peru"}, same)
    assert [case.id for case in cases] == ["own/00000"]
    assert report.reasons == {
        "listed before": 2,
        "another new answer for a question listed before (a conflict)": 1,
        "its new answer is its old one": 1,
    }
    (note,) = (note for note in report.notes if "two new answers" in note)
    assert "(own.json, row 1 and own.json, row 3)" in note


def test_what_is_not_used_is_named(tmp_path: Path) -> None:
    _, report = made(tmp_path, FACT | {"rephrse": "x", "target_new": "Bonn", "id": "7"})
    assert report.notes == {
        "the column 'rephrse' is not used (did you mean rephrase?)": 1,
        "the column 'target_new' is not used, because 'new' is": 1,
    }


def test_without_a_subject_a_case_is_made_and_noted(tmp_path: Path) -> None:
    ((case,), report) = made(tmp_path, {"prompt": "It is", "new": "x"})
    assert case.edit is not None
    assert case.edit.query.subject is None
    assert case.essence is None
    assert sum(report.notes.values()) == 1


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        ({"new": ""}, "new", "there is no new answer"),
        ({"prompt": None}, "prompt", "there is no prompt"),
        ({"subject": "Chile"}, "prompt", "the subject 'Chile' stands there nowhere; write {} once"),
        ({"prompt": "Peru, Peru is"}, "prompt", "stands there 2 times"),
        ({"prompt": "Peru ___ is ___"}, "prompt", "it has more than one ___"),
        ({"new": True}, "new", "expected a text: got True"),
        ({"portability": "Q"}, "portability", "needs its answer"),
        (
            {"neighbour": ["Q", "R"], "neighbour_answer": ["a"]},
            "neighbour",
            "2 questions, but 1 answers",
        ),
        ({"neighbour_answer": "a"}, "neighbour_answer", "there is no question that it answers"),
        ({"neighbour": 3.5}, None, None),
        ({"rephrase": True}, "rephrase", "expected a text, a list or a mapping"),
    ],
)
def test_a_bad_row_is_refused_with_file_row_and_column(
    tmp_path: Path, row: dict[str, Any], column: str | None, message: str | None
) -> None:
    if column is None or message is None:
        ((_, case), _) = made(tmp_path, FACT, FACT | {"prompt": "Is {}"} | row)
        assert case.probes[0].query.text == "3.5 ___"
        return
    with pytest.raises(ValueError, match="own.json, row 2") as error:
        made(tmp_path, FACT | {"prompt": "So {} is"}, FACT | row)
    assert message in str(error.value)
    assert f"column {column!r}" in str(error.value)
    assert "the columns are 'prompt', 'subject'" in str(error.value)
    assert not isinstance(error.value, Fault)


def test_a_table_without_its_columns_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"no column 'prompt' and no 'new'; the columns are 'promt', 'nwe'; 'promt' \(did",
    ):
        made(tmp_path, {"promt": "x", "nwe": "y"})
    with pytest.raises(ValueError, match=r"not there \(did you mean own.json\?\)"):
        loaded(tmp_path / "own.jsn")


def test_a_limit_and_a_seed_choose_rows_and_the_content_names_the_data(tmp_path: Path) -> None:
    rows = [FACT | {"prompt": f"In {n}, {{}} is"} for n in range(20)]
    cases, report = made(tmp_path, *rows, limit=3)
    assert len(cases) == report.used == 3
    assert report.reasons == {"beyond limit": 17}
    data = Facts(path=str(tmp_path / "own.json"))
    other = data.load("causal", seed=1, limit=3, editable=True).cases
    assert {case.id for case in other} != {case.id for case in cases}
    before = data.fingerprint()
    (tmp_path / "own.json").write_text(json.dumps(rows[:1]))
    assert data.fingerprint() != before


def test_questions_are_limited_by_kind(tmp_path: Path) -> None:
    row = FACT | {"rephrase": ["Q", "R", "S"], "neighbour": ["Q", "R"]}
    ((case,), _) = made(tmp_path, row, rephrasings=1, neighbours=0)
    assert [p.kind for p in case.probes] == ["rephrase"]
    with pytest.raises(ValueError, match="rephrasings must be 0 or more"):
        Facts(path="x", rephrasings=-1)


def test_ten_thousand_rows_are_read_in_two_seconds_and_no_case_is_made_beyond_the_limit(
    tmp_path: Path,
) -> None:
    rows = [
        {
            "case_id": n,
            "prompt": f"The mother tongue of Person {n} is",
            "subject": f"Person {n}",
            "ground_truth": "French",
            "target_new": "English",
            "rephrase_prompt": f"Where Person {n} is from, people speak",
            "locality_prompt": f"Neighbour {n} speaks",
            "locality_ground_truth": "French",
        }
        for n in range(10_000)
    ]
    began = time.process_time()
    cases, report = made(tmp_path, *rows)
    took = time.process_time() - began
    assert report.used == len(cases) == 10_000
    assert took < 4  # half of it on an idle machine
    cases, report = made(tmp_path, *rows, limit=100)
    assert len(cases) == 100
    assert report.reasons == {"beyond limit": 9_900}
