"""The field's benchmarks: every layout by small files of our own, and the official files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from kn_sweeps.cases import RESIDUE, REVERSED, Case
from kn_sweeps.data.base import Loaded
from kn_sweeps.data.benchmarks import Published
from kn_sweeps.data.conflict_edit import ConflictEdit
from kn_sweeps.data.counterfact import CounterFact
from kn_sweeps.data.known import Known
from kn_sweeps.data.mquake import MQuAKE
from kn_sweeps.data.ripple_edits import RippleEdits
from kn_sweeps.data.word_relations import Relations
from kn_sweeps.data.zsre import ZsRE

REWRITE = {
    "prompt": "{} was born in",
    "subject": "Anna Vale",
    "target_new": {"str": "Oslo", "id": "Q1"},
    "target_true": {"str": "Lima", "id": "Q2"},
}
NATIVE = {
    "case_id": 7,
    "requested_rewrite": REWRITE,
    "paraphrase_prompts": ["It rained all day. Anna Vale comes from"],
    "neighborhood_prompts": ["Ben Hill was born in", "Cora Dale was born in"],
    "attribute_prompts": ["Dan Moor was born in"],
    "generation_prompts": ["Anna Vale's home town is", "Anna Vale's home town is"],
}
FLAT = {
    **{"case_id": 0, "prompt": "Anna Vale was born in", "subject": "Anna Vale"},
    **{"ground_truth": "Lima", "target_new": "Oslo", "locality_prompt": "Ben Hill was born in"},
    **{"locality_ground_truth": "Lima", "rephrase_prompt": "It rained. Anna Vale comes from"},
}
MEND = {
    **{"subject": "Anna Vale", "src": "Where was Anna Vale born?", "pred": "Rome", "alt": "Oslo"},
    **{"answers": ["Lima", "City of Lima"], "rephrase": "Anna Vale was born where?"},
    **{"loc": "nq question: who built the tower", "loc_ans": "The Moors", "cond": "x >> y"},
    "portability": {
        **{"Recalled Relation": "(Oslo, country, Norway)"},
        **{"New Question": "In which country was Anna Vale born?", "New Answer": "Norway"},
    },
}
WIKI = {
    **{"subject": "Anna Vale", "update": "Where does Anna Vale live?", "ans": "Oslo"},
    **{"rephrase": "Anna Vale lives where?", "loc": "Who is Ben Hill?", "loc_ans": "a poet"},
    **{"mhop": "In which country does Anna Vale live?", "mhop_ans": "Norway", "tag": "t"},
}
HOP = {
    **{"prompt": "{} lives in", "subject": "Anna Vale", "question": "Where does Anna Vale live?"},
    **{"target_new": {"str": "Oslo"}, "target_true": {"str": "Lima"}},
}
SECOND = {
    **{"prompt": "The mayor of {} is", "subject": "Oslo", "question": "Who is Oslo's mayor?"},
    **{"target_new": {"str": "Dan Moor"}, "target_true": {"str": "Eve Fen"}},
}
CHAIN = {
    **{"case_id": 1, "requested_rewrite": [HOP, SECOND], "answer": "Eve Fen"},
    **{"questions": ["Who is the mayor of where Anna Vale lives?"], "answer_alias": ["E. Fen"]},
    **{"new_answer": "Dan Moor", "new_answer_alias": ["D. Moor"]},
    "new_single_hops": [
        {"question": HOP["question"], "cloze": "Anna Vale lives in", "answer": "Oslo"},
        {
            "question": "Who is Dan Moor's father?",
            "cloze": "The father of Dan Moor is",
            "answer": "Al",
        },
    ],
}


def relation(name: str, prompt: str, query: str) -> dict[str, str]:
    return {"id": name, "prompt": prompt, "query": query}


def reverse_pair(**more: Any) -> dict[str, Any]:
    first = relation("P1", "The work of {} is", "What is the work of {}?")
    back = relation("P2", "The maker of {} is", "Who made {}?")
    edits = [
        {
            **{"relation": first, "subject": {"label": "Vale"}, "object": {"label": "Dawn"}},
            "new_object": {"label": "Dusk"},
        },
        {
            **{"relation": back, "subject": {"label": "Dusk"}, "object": {"label": "Vale"}},
            "new_object": {"label": "Fen"},
        },
    ]
    return {"rule": "P1>P2", "triples": edits, "type": "reverse", "edits": edits, **more}


def ripple(**more: Any) -> dict[str, Any]:
    def test(prompt: str, *answers: str) -> dict[str, Any]:
        query = {"prompt": prompt, "answers": [{"value": answers[0], "aliases": answers[1:]}]}
        return {"test_queries": [query], "condition_queries": []}

    return {
        "edit": {
            "prompt": "The name of the mother of Anna Vale is Cora Dale.",
            "original_fact": {"prompt": "The name of the mother of Anna Vale is Eve Fen."},
            "subject": "Anna Vale",
        },
        "Relation_Specifity": [test("The name of the father of Anna Vale is", "Al Vale")],
        "Logical_Generalization": [
            test("The name of the child of Cora Dale is", "Anna Vale", "Ann")
        ],
        "Compositionality_I": [test("The name of the grandmother of Ben is", "Cora Dale")],
        "Forgetfulness": [],
        **more,
    }


def written(folder: Path, rows: Any, name: str = "own.json") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(rows), encoding="utf-8")
    return str(folder)


def load(data: Published, kind: Any = "causal", **options: Any) -> Loaded:
    return data.load(kind, **{"seed": 0, "limit": None, "editable": True, **options})


def asked(case: Case) -> list[tuple[str, str, str, str, str]]:
    return [(p.kind, p.group, p.query.text, p.old, p.new) for p in case.all_probes]


def test_counterfacts_own_layout(tmp_path: Path) -> None:
    root = written(tmp_path, [NATIVE])
    (case,) = load(CounterFact(root=root, attributes=None, continuations=None)).cases
    assert asked(case) == [
        ("edit", "", "Anna Vale was born in ___", "Lima", "Oslo"),
        ("rephrase", "", "It rained all day. Anna Vale comes from ___", "Lima", "Oslo"),
        ("neighbour", "neighbourhood", "Ben Hill was born in ___", "Lima", "Lima"),
        ("neighbour", "neighbourhood", "Cora Dale was born in ___", "Lima", "Lima"),
        ("neighbour", "attribute", "Dan Moor was born in ___", "Oslo", "Oslo"),
        ("continuation", "", "Anna Vale's home town is ___", "", ""),
    ]
    assert [p.rival for p in case.probes if p.group == "neighbourhood"] == ["Oslo", "Oslo"]
    assert case.edit is not None
    assert case.edit.query.subject_text == "Anna Vale"
    (plain,) = load(CounterFact(root=root, neighbours=1)).cases
    assert [p.kind for p in plain.probes] == ["rephrase", "neighbour"]


def test_flat_layouts_and_what_their_rephrasings_are(tmp_path: Path) -> None:
    odd = {**FLAT, "case_id": 1, "prompt": "Ben Hill was born in", "subject": "Ben Hill"}
    odd |= {
        "rephrase_prompt": "Ben Hill's home is",
        "locality_prompt": None,
        "locality_ground_truth": "",
    }
    loaded = load(CounterFact(root=written(tmp_path, [FLAT, odd])))
    first, second = sorted(loaded.cases, key=lambda case: case.id)
    assert sorted(asked(first)[1:]) == [
        ("neighbour", "others", "Ben Hill was born in ___", "Lima", "Lima"),
        ("rephrase", "", "It rained. Anna Vale comes from ___", "Lima", "Oslo"),
    ]
    assert [(p.kind, p.group) for p in second.probes] == [("rephrase", "flattened")]
    (note,) = [note for note in loaded.left_out[0].notes if "generation prompts" in note]
    assert loaded.left_out[0].notes[note] == 1


@pytest.mark.parametrize(
    ("writes", "old", "new", "kinds"),
    [
        ("alt", "Lima", "Oslo", ["rephrase", "neighbour", "portability"]),
        ("answers", "", "Lima", ["rephrase", "neighbour"]),
    ],
)
def test_zsre_writes_what_is_asked_for(
    tmp_path: Path, writes: Any, old: str, new: str, kinds: list[str]
) -> None:
    (case,) = load(ZsRE(root=written(tmp_path, [MEND]), writes=writes)).cases
    assert case.edit is not None
    assert (case.edit.query.text, case.edit.old, case.edit.new) == (
        *("Where was Anna Vale born? ___", old, new),
    )
    assert sorted(p.kind for p in case.probes) == sorted(kinds)
    (near,) = [p for p in case.probes if p.kind == "neighbour"]
    assert (near.query.text, near.old) == ("who built the tower ___", "The Moors")
    if writes == "alt":
        assert case.edit.old_aliases == ("City of Lima",)
        (follows,) = [p for p in case.probes if p.kind == "portability"]
        assert (follows.query.text, follows.new) == (
            *("In which country was Anna Vale born? ___", "Norway"),
        )


def test_a_texts_end_as_the_old_answer_is_none(tmp_path: Path) -> None:
    loaded = load(CounterFact(root=written(tmp_path, [{**FLAT, "ground_truth": "<|endoftext|>"}])))
    assert [case.edit.old for case in loaded.cases if case.edit is not None] == [""]
    (note,) = loaded.left_out[0].notes
    assert note == "'ground_truth' is the end of a text, which is no answer"


def test_flat_layouts_of_the_same_kind_are_read_by_their_fields(tmp_path: Path) -> None:
    (case,) = load(ZsRE(root=written(tmp_path, [WIKI]))).cases
    assert [one[::2] for one in asked(case)] == [
        ("edit", "Where does Anna Vale live? ___", "Oslo"),
        ("rephrase", "Anna Vale lives where? ___", "Oslo"),
        ("neighbour", "Who is Ben Hill? ___", "a poet"),
        ("portability", "In which country does Anna Vale live? ___", "Norway"),
    ]


def test_the_edits_of_a_chain_go_together(tmp_path: Path) -> None:
    written(tmp_path, {"{} lives in": "Where does {} live?"}, "templates.json")
    loaded = load(MQuAKE(root=written(tmp_path, [CHAIN])), limit=1)
    first, second = loaded.cases
    assert first.together == second.together != ""
    assert asked(first)[1:] == [
        ("rephrase", "", "Where does Anna Vale live? ___", "Lima", "Oslo"),
        (
            *("portability", "2_hops", "Who is the mayor of where Anna Vale lives? ___"),
            *("Eve Fen", "Dan Moor"),
        ),
        ("neighbour", "unedited_hop", "The father of Dan Moor is ___", "Al", "Al"),
    ]
    assert first.probes[1].new_aliases == ("D. Moor",)
    assert [p.kind for p in second.probes] == ["rephrase"]
    assert [(r.source, r.used) for r in loaded.left_out] == [("templates", 0), ("own", 1)]


def test_a_fact_and_its_inverse_make_reversals(tmp_path: Path) -> None:
    rows = [reverse_pair(), reverse_pair(type="composite")]
    loaded = load(ConflictEdit(root=written(tmp_path, rows)))
    (case,) = loaded.cases
    assert [one for one in asked(case) if one[0] == "reversal"] == [
        ("reversal", REVERSED, "The maker of Dusk is ___", "", "Vale"),
        ("reversal", RESIDUE, "The maker of Dawn is ___", "Vale", "Vale"),
    ]
    assert sum(loaded.left_out[0].reasons.values()) == 1


def test_ripples_follow_or_stay(tmp_path: Path) -> None:
    (case,) = load(RippleEdits(root=written(tmp_path, [ripple()]))).cases
    assert asked(case) == [
        ("edit", "", "The name of the mother of Anna Vale is ___", "Eve Fen", "Cora Dale"),
        (
            *("neighbour", "relation_specificity", "The name of the father of Anna Vale is ___"),
            *("Al Vale", "Al Vale"),
        ),
        (
            *("portability", "logical_generalization", "The name of the child of Cora Dale is ___"),
            *("", "Anna Vale"),
        ),
        (
            *("portability", "compositionality_i", "The name of the grandmother of Ben is ___"),
            *("", "Cora Dale"),
        ),
    ]
    assert case.probes[1].new_aliases == ("Ann",)


def test_known_facts_get_another_attribute_of_their_relation(tmp_path: Path) -> None:
    rows = [
        {
            **{"subject": name, "attribute": town, "prompt": f"{name} was born in"},
            **{"template": "{} was born in", "relation_id": "P19", "prediction": town},
        }
        for name, town in (("Anna", "Lima"), ("Ben", "Oslo"), ("Cora", "Rome"))
    ]
    for case in load(Known(root=written(tmp_path, rows))).cases:
        assert case.edit is not None
        assert case.edit.new in {"Lima", "Oslo", "Rome"} - {case.edit.old}
        assert all(p.old not in (case.edit.old, case.edit.new) for p in case.probes)


def test_relations_and_pairs_of_words_are_asked_as_pararel_is(tmp_path: Path) -> None:
    capitals = {
        "prompt_templates": ["The capital city of {} is", "The capital of {} is"],
        "samples": [
            {"subject": s, "object": o}
            for s, o in (("Peru", "Lima"), ("Norway", "Oslo"), ("A", "B"))
        ],
    }
    words = [
        {"input": a, "output": b}
        for a, b in (("big", "large"), ("small", "little"), ("huge", "large"), ("tiny", "little"))
    ]
    written(tmp_path, words, "synonym.json")
    root = written(tmp_path, capitals, "country_capital_city.json")
    cases = load(Relations(root=root)).cases
    kinds = {case.source: {p.kind for p in case.probes} for case in cases}
    assert {"rephrase", "reversal"} <= kinds["country_capital_city"]
    assert "synonym" in {p.kind for c in cases if c.source == "synonym" for p in c.probes}


@pytest.mark.parametrize(
    ("data", "rows", "told"),
    [
        (
            CounterFact,
            [{"a": 1}],
            "not a layout of dataset=counterfact: its fields are 'a'; expected",
        ),
        (MQuAKE, [], "has no rows"),
        (ZsRE, [{**MEND, "alt": "Lima"}], "has no fact that can be used: own: 0 used; 1 left out"),
        (ConflictEdit, [{"edits": []}], "not a layout of dataset=conflict_edit"),
        (RippleEdits, [{"edit": {}}], "not a layout of dataset=ripple_edits"),
        (Relations, {"samples": []}, "and `samples` with `subject`"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, data: Any, rows: Any, told: str) -> None:
    with pytest.raises(ValueError, match=".") as error:
        load(data(root=written(tmp_path, rows)))
    assert told in str(error.value)


@pytest.mark.official_data
def test_every_official_file_is_used_or_says_why(
    official_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editing = official_data / "editing"
    if not editing.is_dir():
        pytest.skip(f"{editing} is not there")
    monkeypatch.setenv("KN_SWEEPS_DATA", str(official_data))
    used = {}
    for data in (
        *(CounterFact(), ZsRE(), MQuAKE(), Known(), ConflictEdit()),
        *(Relations(root=str(editing / name)) for name in ("relations", "function_vectors")),
    ):
        start = time.process_time()
        loaded = load(data, limit=100)
        used |= {report.source: report.used for report in loaded.left_out}
        took = time.process_time() - start
        # Ten thousand flat rows in two seconds, of which machines make more.
        assert took < 20, (data, took)
        for report in loaded.left_out:
            assert report.used or report.reasons, report
    assert used["counterfact-edit"] == used["zsre_mend_eval_portability_gpt4"] == 100
    assert used["most_orthogonal"] == used["least_orthogonal"] == 10
    assert used["MQuAKE-hard"] == used["known_1000"] == used["reverse_edit"] == 100
