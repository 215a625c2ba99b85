"""Minimal pairs: regions, validity, splits, and errors that name file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kn_sweeps.cases import Query
from kn_sweeps.data.blimp import Blimp
from kn_sweeps.data.paradigms import available_paradigms, read_paradigm
from kn_sweeps.data.sources import Source

BUNDLED = Blimp(source="bundled", root=None).resolved()


def _row(good: str, bad: str, **more: object) -> dict[str, object]:
    return {
        "sentence_good": good,
        "sentence_bad": bad,
        "linguistics_term": "agreement",
        "UID": "made_up",
        "simple_LM_method": True,
        "one_prefix_method": True,
        "two_prefix_method": False,
    } | more


def _write(folder: Path, rows: list[dict[str, object]], name: str = "made_up") -> Path:
    (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return folder


@pytest.mark.parametrize(
    ("good", "bad", "expected"),
    [
        ("Ann sees this cat.", "Ann sees this cats.", ("Ann sees this ", "cat", "cats", ".")),
        ("Dogs haven't run.", "Dogs hasn't run.", ("Dogs ", "haven't", "hasn't", " run.")),
        ("This cat ran.", "These cat ran.", ("", "This", "These", " cat ran.")),
        ("A big red dog ran.", "A red big dog ran.", ("A ", "big red", "red big", " dog ran.")),
        ("Ann did not go.", "Ann did go.", ("Ann did ", "not", "", " go.")),
        ("Ann ran ran.", "Ann ran.", ("Ann ran ", "ran", "", ".")),
    ],
)
def test_the_critical_region_is_where_the_words_differ(
    tmp_path: Path, good: str, bad: str, expected: tuple[str, ...]
) -> None:
    root = _write(tmp_path, [_row(good, bad)])
    (pair,) = read_paradigm(Source("local", root), "made_up").pairs
    assert (pair.prefix, pair.old, pair.new, pair.suffix) == expected
    assert pair.prefix + pair.old + pair.suffix == good


def test_every_bundled_paradigm_makes_cases_for_a_masked_lm() -> None:
    loaded = Blimp().load("masked", seed=0, limit=3, editable=True)
    assert {case.source for case in loaded.cases} == set(available_paradigms(BUNDLED))
    for case in loaded.cases:
        assert case.edit is not None
        assert case.edit.query.subject_text
        assert case.edit.old != case.edit.new


def test_a_causal_lm_gets_the_paradigms_whose_trigger_comes_first() -> None:
    loaded = Blimp().load("causal", seed=0, limit=1, editable=True)
    left_out = {report.source for report in loaded.left_out if not report.used}
    assert "determiner_noun_agreement_2" in left_out
    assert {case.source for case in loaded.cases} == set(available_paradigms(BUNDLED)) - left_out
    for case in loaded.cases:
        assert case.edit is not None
        assert case.edit.query.subject is not None
        assert case.edit.query.subject[1] <= len(case.edit.query.prefix)


def test_an_invalid_paradigm_is_refused_with_the_valid_ones() -> None:
    chosen = Blimp(paradigms=("determiner_noun_agreement_2",))
    with pytest.raises(ValueError, match="no causal LM can be edited on determiner_noun") as caught:
        chosen.load("causal", seed=0, limit=1, editable=True)
    assert "Choose from anaphor_gender_agreement" in str(caught.value)
    assert "method=none" in str(caught.value)
    loaded = chosen.load("causal", seed=0, limit=5, editable=False)
    assert all(case.edit is None for case in loaded.cases)
    assert [p.kind for case in loaded.cases for p in case.probes] == ["sentence"] * 5
    assert chosen.load("masked", seed=0, limit=1, editable=True).cases


def test_a_typo_names_the_nearest_and_all_paradigms() -> None:
    with pytest.raises(ValueError, match=r"did you mean anaphor_gender_agreement\?.*choose from"):
        Blimp(paradigms=("anaphor_gender",)).load("causal", seed=0, limit=1, editable=True)


def test_no_prompt_an_edit_is_made_from_judges_its_generality() -> None:
    for kind in ("causal", "masked"):
        for case in Blimp().load(kind, seed=0, limit=None, editable=True).cases:
            assert case.edit is not None
            queries = [case.edit.query, *case.seen]
            seen = {(q.prefix, q.suffix if kind == "masked" else "") for q in queries}
            judging = {p.query for p in case.probes if p.kind == "rephrase"}
            assert not seen & {(q.prefix, q.suffix if kind == "masked" else "") for q in judging}


def test_every_pair_is_used_held_out_or_left_out_for_a_reason() -> None:
    loaded = Blimp().load("masked", seed=0, limit=None, editable=True)
    used = sum(report.used for report in loaded.left_out)
    held = sum(sum(report.reasons.values()) for report in loaded.left_out)
    assert used + held == 200 * len(available_paradigms(BUNDLED))


def test_rephrasings_keep_trigger_and_forms_and_neighbours_do_not() -> None:
    loaded = Blimp().load("causal", seed=0, limit=20, editable=True)
    rephrased = 0
    for case in loaded.cases:
        edit = case.edit
        assert edit is not None
        trigger = edit.query.subject_text.lower()
        for probe in case.probes:
            if probe.kind == "rephrase":
                rephrased += 1
                assert (probe.old, probe.new) == (edit.old, edit.new)
                assert probe.query.subject_text.lower() == trigger
                assert probe.query != edit.query
            elif probe.group == "same_paradigm":
                assert not {probe.old, probe.new} & {edit.old, edit.new}
        assert {p.group for p in case.probes if p.kind == "neighbour"} >= {"other_phenomenon"}
    assert rephrased > len(loaded.cases)


def test_one_paradigm_alone_borrows_neighbours_of_another_phenomenon() -> None:
    only = Blimp(paradigms=("anaphor_gender_agreement",))
    loaded = only.load("causal", seed=0, limit=2, editable=True)
    for case in loaded.cases:
        assert sum(p.group == "other_phenomenon" for p in case.probes) == 4


def test_pairs_elsewhere_are_held_out_of_every_chosen_paradigm() -> None:
    names = ("anaphor_gender_agreement", "determiner_noun_agreement_1")
    cases = Blimp(paradigms=names, elsewhere=2).load("causal", seed=0, limit=3, editable=True).cases
    seen = {query for case in cases for query in case.seen}
    for case in cases:
        followed = [probe for probe in case.probes if probe.kind == "elsewhere"]
        assert [probe.group for probe in followed] == [name for name in names for _ in range(2)]
        assert not seen & {probe.query for probe in followed}


def test_the_seed_decides_and_nothing_else() -> None:
    first = Blimp().load("masked", seed=0, limit=5, editable=True)
    assert Blimp().load("masked", seed=0, limit=5, editable=True) == first
    assert Blimp().load("masked", seed=1, limit=5, editable=True).cases != first.cases
    longer = Blimp().load("masked", seed=0, limit=6, editable=True)
    assert set(first.cases) < set(longer.cases)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"sentence_good": "a"}\n', r"made_up.jsonl, line 1: no 'sentence_bad'"),
        ("\n{broken\n", r"made_up.jsonl, line 2: not JSON"),
        ("[1, 2]\n", r"made_up.jsonl, line 1: expected an object"),
        ("", "paradigm made_up has no pairs"),
    ],
)
def test_malformed_files_are_named_with_their_line(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "made_up.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        Blimp(root=str(tmp_path)).load("causal", seed=0, limit=None, editable=True)


def test_a_pair_of_equal_sentences_and_one_that_was_listed_before_are_left_out(
    tmp_path: Path,
) -> None:
    pair = _row("Ann sees this cat.", "Ann sees this cats.")
    other = _row("Bob sees that dog.", "Bob sees that dogs.")
    root = _write(tmp_path, [pair, _row("Ann ran.", "Ann ran."), other, pair])
    for editable in (True, False):
        options = Blimp(root=str(root), seen_share=0.9)
        loaded = options.load("causal", seed=0, limit=None, editable=editable)
        assert sorted(case.id for case in loaded.cases) == ["made_up/0000", "made_up/0002"]
        reasons = loaded.left_out[0].reasons
        assert reasons["its two sentences are equal"] == reasons["listed before"] == 1
    _write(tmp_path, [_row("Ann ran.", "Ann ran.")])
    with pytest.raises(ValueError, match="no pairs that can be used: .*sentences are equal"):
        read_paradigm(Source("local", root), "made_up")


def test_a_byte_order_mark_is_taken_and_another_encoding_is_located(tmp_path: Path) -> None:
    pair = _row("Jos\u00e9 sees this cat.", "Jos\u00e9 sees this cats.")
    path = tmp_path / "made_up.jsonl"
    text = json.dumps(pair, ensure_ascii=False) + "\r\n"
    path.write_bytes(text.encode("utf-8-sig"))
    (read,) = read_paradigm(Source("local", tmp_path), "made_up").pairs
    assert read.good == pair["sentence_good"]
    path.write_bytes(b"\n" + text.encode("latin-1"))
    column = text.index("\u00e9") + 1
    with pytest.raises(ValueError, match=rf"made_up.jsonl, line 2, byte {column}: .*save .* UTF-8"):
        read_paradigm(Source("local", tmp_path), "made_up")


def test_a_message_shows_the_ends_of_a_long_text(tmp_path: Path) -> None:
    (tmp_path / "made_up.jsonl").write_text(json.dumps(["word " * 5000]))
    with pytest.raises(ValueError, match="expected an object") as caught:
        read_paradigm(Source("local", tmp_path), "made_up")
    assert len(str(caught.value)) < 500


def test_missing_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="dataset.root names the folder .*nowhere, which does not"):
        Blimp(source="hub", root=str(tmp_path / "nowhere")).resolved()
    monkeypatch.setenv("KN_SWEEPS_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="KN_SWEEPS_DATA names the folder .*blimp"):
        Blimp(source="hub", root=None).resolved()
    (tmp_path / "blimp").mkdir()
    with pytest.raises(ValueError, match="has no paradigm"):
        available_paradigms(Blimp(source="hub", root=None).resolved())
    assert Blimp(source="bundled", root=None).resolved().name == "bundled"
    monkeypatch.delenv("KN_SWEEPS_DATA")
    with pytest.raises(ValueError, match="dataset.source=local needs dataset.root=DIR"):
        Blimp(source="local", root=None).resolved()
    with pytest.raises(ValueError, match="choose from bundled, hub, local"):
        Blimp(source="web", root=None).resolved()


def test_the_fingerprint_follows_the_content_not_the_place(tmp_path: Path) -> None:
    rows = [_row("Ann sees this cat.", "Ann sees this cats.")]
    prints = []
    for name, extra in (("a", []), ("b", []), ("c", rows)):
        (tmp_path / name).mkdir()
        root = _write(tmp_path / name, rows + extra)
        prints.append(Blimp(root=str(root)).fingerprint())
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.official_data
@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_all_official_paradigms_load_and_every_pair_is_accounted_for(
    official_data: Path, kind: str
) -> None:
    data = Blimp(root=str(official_data / "blimp"))
    loaded = data.load(kind, seed=0, limit=10, editable=True)  # type: ignore[arg-type]
    assert len(loaded.left_out) == 67
    assert sum(r.used + sum(r.reasons.values()) for r in loaded.left_out) == 67_000
    if kind == "causal":
        assert sum(report.used > 0 for report in loaded.left_out) == 20


@pytest.mark.official_data
def test_official_triggers_are_the_agreeing_words(official_data: Path) -> None:
    source = Source("local", official_data / "blimp")

    def triggers(name: str) -> list[str]:
        return [pair.trigger for pair in read_paradigm(source, name).pairs]

    demonstratives = {"this", "that", "these", "those"}
    for name in ("determiner_noun_agreement_1", "determiner_noun_agreement_with_adjective_1"):
        assert set(triggers(name)) <= demonstratives
    for pair in read_paradigm(source, "distractor_agreement_relational_noun").pairs:
        before = pair.prefix.lower().split()
        assert before[before.index(pair.trigger) + 1] in ("of", "about")
    names = triggers("anaphor_gender_agreement")
    assert {"katherine", "karla", "jane"} <= set(names)


def test_a_slot_shows_in_messages() -> None:
    assert Query("Ann sees ", ".").text == "Ann sees ___."
