"""The bundled data keep the promises that experiments rely on."""

import json
import re
import uuid
from collections import Counter, defaultdict

import pytest

from kn_sweeps.data.sentences import BUNDLED, bundled_pairs, fact_sentences

RELATIONS = sorted(path.stem for path in (BUNDLED / "pararel" / "facts").glob("*.jsonl"))
PARADIGMS = sorted(path.stem for path in (BUNDLED / "blimp").glob("*.jsonl"))
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://kn-sweeps/bundled/pararel")


def read(*parts):
    text = BUNDLED.joinpath(*parts).with_suffix(".jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def patterns_of(relation):
    return [row["pattern"] for row in read("pararel", "patterns", relation)]


def facts_of(relation):
    return [(row["sub_label"], row["obj_label"]) for row in read("pararel", "facts", relation)]


def test_there_are_enough_relations_and_paradigms():
    assert len(RELATIONS) >= 12
    assert len(PARADIGMS) >= 12
    files = {path.stem for path in (BUNDLED / "pararel" / "patterns").glob("*.jsonl")}
    assert files == set(RELATIONS)


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_relation_has_pararels_fields_and_enough_facts_and_patterns(relation):
    facts, patterns = read("pararel", "facts", relation), read("pararel", "patterns", relation)
    assert all(list(row) == ["sub_label", "obj_label", "uuid"] for row in facts)
    assert all(list(row) == ["pattern", "lemma", "extended_lemma", "tense"] for row in patterns)
    assert all(row["pattern"].count(slot) == 1 for row in patterns for slot in ("[X]", "[Y]"))
    assert len({row["obj_label"] for row in facts}) >= 4
    assert len(facts) >= 40
    asks_causal = [p for p in patterns_of(relation) if re.search(r"\[X\].*\[Y\]\W*$", p)]
    assert len(set(patterns_of(relation))) == len(patterns) > len(asks_causal) >= 6


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_subject_has_one_object_and_a_fact_an_id_that_follows_from_it(relation):
    rows = read("pararel", "facts", relation)
    assert len({row["sub_label"] for row in rows}) == len(rows)
    for row in rows:
        name = f"{relation}/{row['sub_label']}/{row['obj_label']}"
        assert row["uuid"] == str(uuid.uuid5(NAMESPACE, name))


def test_no_question_has_two_answers():
    answers = defaultdict(set)
    for item in fact_sentences():
        answers["masked", item.prefix, item.suffix].add(item.answer)
        if item.causal:
            answers["causal", item.prefix, ""].add(item.answer)
    assert [question for question, found in answers.items() if len(found) > 1] == []


def test_capitals_and_countries_are_inverses_with_mirrored_patterns():
    assert facts_of("P1376") == [(y, x) for x, y in facts_of("P36")]
    labels = [label for fact in facts_of("P36") for label in fact]
    assert len(set(labels)) == len(labels)
    swap = {"[X]": "[Y]", "[Y]": "[X]"}
    mirrored = [re.sub(r"\[[XY]\]", lambda m: swap[m[0]], p) for p in patterns_of("P36")]
    assert patterns_of("P1376") == mirrored


def test_fields_have_their_occupations():
    synonyms = read("pararel", "synonyms", "P101")
    assert len(synonyms) >= 60
    assert all(list(row) == ["object", "synonym", "relation"] for row in synonyms)
    occupation = {row["object"]: row["synonym"] for row in synonyms}
    assert len(occupation) == len(synonyms)
    assert facts_of("P106") == [(x, occupation[field]) for x, field in facts_of("P101")]


def test_most_subjects_that_are_not_capitals_have_several_relations():
    capitals = {y for _, y in facts_of("P36")}
    counts = Counter(
        subject
        for relation in RELATIONS
        for subject, _ in facts_of(relation)
        if subject not in capitals
    )
    assert sum(count > 1 for count in counts.values()) > 0.9 * len(counts)


def test_the_vocabulary_is_small():
    texts = [item.text for item in fact_sentences()]
    texts += [text for pair in bundled_pairs() for text in (pair.good, pair.bad)]
    assert len({word for text in texts for word in re.findall(r"[\w']+", text)}) < 2500


@pytest.mark.parametrize("uid", PARADIGMS)
def test_prefixes_and_words_rebuild_the_sentences(uid):
    for number, row in enumerate(read("blimp", uid)):
        assert row["pairID"] == str(number)
        assert row["UID"] == uid
        assert row["one_prefix_method"] != row["two_prefix_method"]
        for form in ("good", "bad"):
            if row["one_prefix_method"]:
                start = f"{row['one_prefix_prefix']} {row[f'one_prefix_word_{form}']}"
            else:
                start = f"{row[f'two_prefix_prefix_{form}']} {row['two_prefix_word']}"
            assert re.match(re.escape(start) + r"\b", row[f"sentence_{form}"])
        words = [row[f"sentence_{form}"].split() for form in ("good", "bad")]
        assert sum(a != b for a, b in zip(*words, strict=True)) == 1


@pytest.mark.official_data
@pytest.mark.parametrize("uid", PARADIGMS)
def test_fields_and_flags_are_those_of_the_official_file(uid, official_data):
    path = official_data / "blimp" / f"{uid}.jsonl"
    official = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    ours = read("blimp", uid)[0]
    assert list(ours) == list(official)
    flags = [key for key, value in official.items() if isinstance(value, bool)]
    for key in [*flags, "field", "linguistics_term", "UID"]:
        assert ours[key] == official[key]
