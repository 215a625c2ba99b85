"""Facts: phrasings, neighbours, reversals, synonyms, and errors that name file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kn_sweeps.cases import Case
from kn_sweeps.data.pararel import INVERSES, ParaRel
from kn_sweeps.data.relations import ask, read_relation, read_synonyms
from kn_sweeps.data.sources import CLEANED, Source

BUNDLED = ParaRel(source="bundled", root=None).resolved()


def _cases(kind: str = "causal", limit: int | None = None, **options: object) -> tuple[Case, ...]:
    loaded = ParaRel(**options).load(kind, seed=0, limit=limit, editable=True)  # type: ignore[arg-type]
    return loaded.cases


def _folder(tmp_path: Path, patterns: list[str], facts: list[tuple[str, str]], **more: str) -> str:
    for part in ("patterns", "facts"):
        (tmp_path / part).mkdir()
    (tmp_path / "patterns" / "P1.jsonl").write_text(
        "".join(json.dumps({"pattern": p}) + "\n" for p in patterns)
    )
    (tmp_path / "facts" / "P1.jsonl").write_text(
        "".join(json.dumps({"sub_label": s, "obj_label": o} | more) + "\n" for s, o in facts)
    )
    return str(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "prefix", "suffix"),
    [
        ("The capital of [X] is [Y].", "The capital of Peru is ", "."),
        ("[Y] is the capital of [X].", "", " is the capital of Peru."),
        ("[X]'s capital, [Y] .", "Peru's capital, ", " ."),
    ],
)
def test_a_pattern_becomes_a_query(pattern: str, prefix: str, suffix: str) -> None:
    query = ask(pattern, "Peru")
    assert (query.prefix, query.suffix, query.subject_text) == (prefix, suffix, "Peru")


def test_every_relation_gives_cases_of_its_facts() -> None:
    for kind in ("causal", "masked"):
        for case in _cases(kind):
            relation = read_relation(BUNDLED, case.source)
            assert case.edit is not None
            subject = case.edit.query.subject_text
            assert case.edit.old in relation.objects_of[subject]
            assert case.edit.new not in relation.objects_of[subject]
            assert case.edit.new in {fact.object for fact in relation.facts}


def test_phrasings_that_judge_were_not_seen() -> None:
    for case in _cases(limit=20):
        rephrased = {p.query for p in case.probes if p.kind == "rephrase"}
        assert rephrased
        assert not rephrased & set(case.seen)
        assert case.edit is not None
        assert case.edit.query in case.seen


def test_neighbours_could_show_damage() -> None:
    for case in _cases(limit=20):
        assert case.edit is not None
        for probe in case.probes:
            if probe.kind != "neighbour":
                continue
            assert probe.old == probe.new
            same_subject = probe.query.subject_text == case.edit.query.subject_text
            assert same_subject == (probe.group == "same_subject")
            if probe.group == "same_relation":
                assert probe.old not in (case.edit.old, case.edit.new)


def test_reversals_ask_the_inverse_of_a_one_to_one_fact() -> None:
    cases = _cases(relations=("P36",))
    assert len(cases) >= 40
    inverse = read_relation(BUNDLED, INVERSES["P36"]).objects_of
    for case in cases:
        assert case.edit is not None
        subject = case.edit.query.subject_text
        asked = {p.group: p for p in case.probes if p.kind == "reversal"}
        assert set(asked) == {"reversed", "residue"}
        turned, residue = asked["reversed"], asked["residue"]
        assert turned.query.subject_text == case.edit.new
        assert turned.new == subject
        assert inverse[case.edit.new] == {turned.old}
        assert residue.query.subject_text == case.edit.old
        assert residue.old == residue.new == subject


def test_only_one_to_one_facts_are_reversed() -> None:
    assert not [p for c in _cases(relations=("P37",)) for p in c.probes if p.kind == "reversal"]


def test_a_synonym_follows_the_new_object() -> None:
    table = read_synonyms()["P101"]
    cases = _cases(relations=("P101",))
    probes = [(c, p) for c in cases for p in c.probes if p.kind == "synonym"]
    assert len(probes) >= len(cases)
    for case, probe in probes:
        assert case.edit is not None
        assert probe.old == table[case.edit.old].word
        assert probe.new == table[case.edit.new].word
        assert probe.query.subject_text == case.edit.query.subject_text
    occupations = {a.object for a in read_relation(BUNDLED, "P106").facts}
    assert {word.word for word in table.values()} >= occupations


def test_facts_elsewhere_are_of_other_subjects_and_of_every_chosen_relation() -> None:
    names = ("P36", "P101")
    cases = ParaRel(relations=names, elsewhere=3).load("causal", seed=0, limit=2, editable=True)
    for case in cases.cases:
        followed = [probe for probe in case.probes if probe.kind == "elsewhere"]
        assert [probe.group for probe in followed] == [name for name in names for _ in range(3)]
        assert case.edit is not None
        assert all(
            probe.query.subject_text != case.edit.query.subject_text and probe.old == probe.new
            for probe in followed
        )


def test_the_seed_decides_the_new_objects() -> None:
    def new(seed: int) -> list[str]:
        loaded = ParaRel().load("causal", seed=seed, limit=5, editable=True)
        return [case.edit.new for case in loaded.cases if case.edit]

    assert new(0) == new(0)
    assert new(0) != new(1)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    facts = [("a", "x"), ("b", "x"), ("c", "y"), ("c", "x"), ("d", "z")]
    root = _folder(tmp_path, ["[X] is [Y].", "[Y] has [X]."], facts)
    data = ParaRel(root=root, one_to_one=True)
    loaded = data.load("causal", seed=0, limit=None, editable=True)
    (report,) = loaded.left_out
    assert (report.used, report.reasons) == (1, {"not one-to-one": 4})
    assert "4 left out: not one-to-one" in str(report)
    assert loaded.source == "local"


def test_labels_are_cleaned_repeats_dropped_and_unread_fields_named(tmp_path: Path) -> None:
    facts = [("Aland", "Porto "), ("Borgia", "Qu\u0065\u0301bec"), ("Aland", "Porto"), ("C", "R")]
    root = _folder(tmp_path, ["[X] is [Y]."], facts, obj_lable="Japan", uuid="1")
    loaded = ParaRel(root=root).load("causal", seed=0, limit=None, editable=True)
    assert {case.edit.old for case in loaded.cases if case.edit} == {"Porto", "Qu\u00e9bec", "R"}
    assert [case.id[-4:] for case in sorted(loaded.cases, key=lambda c: c.id)] == [
        *("0000", "0001", "0003"),
    ]
    (report,) = loaded.left_out
    assert report.reasons == {"listed before": 1}
    assert report.notes[CLEANED] == 2
    assert "the field 'obj_lable' is not used (did you mean obj_label?) (4 times)" in report.noted
    assert "uuid" not in report.noted


def test_a_relation_with_one_object_has_no_new_one(tmp_path: Path) -> None:
    root = _folder(tmp_path, ["[X] is [Y]."], [("a", "x"), ("b", "x")])
    loaded = ParaRel(root=root).load("causal", seed=0, limit=None, editable=True)
    assert not loaded.cases
    assert loaded.left_out[0].reasons == {"no other object to replace its own": 2}


@pytest.mark.parametrize(
    ("patterns", "facts", "message"),
    [
        ([], [("a", "x")], r"relation P1 has no patterns: .*P1.jsonl is empty"),
        (["[X] is [Y]."], [], "relation P1 has no facts"),
        (["[X] is."], [("a", "x")], r"entry 1: a pattern has one \[X\] and one \[Y\]"),
        (["[Y] is [X]."], [("a", "x")], "no pattern that ends with its object"),
        (["[X] is [Y]."], [("a", "x"), ("", "y")], "P1.jsonl, entry 2: an empty label"),
    ],
)
def test_a_relation_that_cannot_be_asked_is_refused(
    tmp_path: Path, patterns: list[str], facts: list[tuple[str, str]], message: str
) -> None:
    root = _folder(tmp_path, patterns, facts)
    with pytest.raises(ValueError, match=message):
        ParaRel(root=root).load("causal", seed=0, limit=None, editable=True)


def test_an_unknown_relation_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown relation 'P360'.*choose from P19"):
        _cases(relations=("P360",))
    with pytest.raises(ValueError, match="no relation chosen"):
        _cases(relations=())


def test_a_folder_without_relations_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no relation; expected .*patterns/P36.jsonl"):
        ParaRel(root=str(tmp_path)).load("causal", seed=0, limit=None, editable=True)


@pytest.mark.official_data
def test_official_relations_are_as_published(official_data: Path) -> None:
    source = Source("local", official_data / "pararel")
    p36, p1376, p101 = (read_relation(source, name) for name in ("P36", "P1376", "P101"))
    assert (len(p36.facts) + p36.repeated, len(p36.one_to_one)) == (471, 158)
    assert (len(p1376.facts) + p1376.repeated, len(p1376.one_to_one)) == (179, 150)
    assert [len(r.askable("causal")) for r in (p36, p1376, p101)] == [8, 6, 10]
    assert [len(r.patterns) for r in (p36, p1376, p101)] == [14, 14, 13]


@pytest.mark.official_data
def test_all_official_relations_load(official_data: Path) -> None:
    data = ParaRel(root=str(official_data / "pararel"))
    loaded = data.load("masked", seed=0, limit=5, editable=True)
    assert len(loaded.left_out) == 39
    assert all(report.used == 5 for report in loaded.left_out)
    words = {s.word for s in read_synonyms()["P101"].values()}
    assert len(words) >= 40
