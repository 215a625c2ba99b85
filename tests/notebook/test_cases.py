"""Facts and pairs made by hand: spans are found, and what cannot be meant is refused."""

from __future__ import annotations

from typing import Any

import pytest

import kn_sweeps as kn
from kn_sweeps.cases import Query


def made(template: str = "The tallest peak of {} is", **changes: Any) -> kn.Case:
    answers = {"old": "Mont Tor", "new": "Pic Vell"}
    return kn.fact(template, changes.pop("subject", "Arvenia"), **{**answers, **changes})


def test_the_subject_stands_where_the_template_says() -> None:
    case = made("Arvenia, says Arvenia: the tallest peak of {} is")
    assert case.edit is not None
    assert case.edit.query.subject_text == "Arvenia"
    assert case.edit.query.subject is not None
    assert case.edit.query.subject[0] == len("Arvenia, says Arvenia: the tallest peak of ")
    assert case.edit.query.prefix.endswith("Arvenia is ")
    assert case.edit.query.suffix == ""


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("Arvenia's tallest peak is", (0, 7)),
        ("It is {} whose tallest peak, of all in Arvenia, is", (6, 13)),
        ("___ is the tallest peak of Arvenia.", (24, 31)),
        ("In Arvenia ___ is tallest.", (3, 10)),
        ("New Arvenians say that in Arvenia one climbs", (26, 33)),
    ],
)
def test_a_rephrasings_subject_is_found_on_either_side_of_the_answer(
    text: str, span: tuple[int, int]
) -> None:
    (probe,) = made(rephrase=[text]).probes
    assert probe.query.subject == span
    assert probe.query.subject_text == "Arvenia"
    assert (probe.kind, probe.old, probe.new) == ("rephrase", "Mont Tor", "Pic Vell")


def test_an_answer_stands_at_the_end_or_where_the_text_says() -> None:
    first, second = made(neighbour=[("Lunt is", "old"), ("It is ___, Lunt.", "new", "far")]).probes
    assert first.query == Query("Lunt is ", "")
    assert second.query == Query("It is ", ", Lunt.")
    assert (first.old, first.new, first.group) == ("old", "old", "others")
    assert second.group == "far"


def test_the_prompt_itself_may_be_seen_and_what_is_said_so_besides() -> None:
    case = made(seen=["The tallest peak of Arvenia is", "Arvenia's peak is"])
    assert [query.prefix for query in case.seen] == [
        "The tallest peak of Arvenia is ",
        "Arvenia's peak is ",
    ]
    assert case.essence == Query("Arvenia is a ", "", (0, 7))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": "The peak is"}, r"has no \{\}: write \{\} once"),
        ({"template": "{} and {} is"}, r"has 2 times \{\}"),
        ({"rephrase": ["The peak is"]}, r"rephrase\[0\]='The peak is': .* stands there nowhere"),
        ({"rephrase": ["Arvenia, Arvenia is"]}, r"the subject 'Arvenia' stands there 2 times"),
        ({"rephrase": "Arvenia is"}, r"expected a list; write rephrase=\['Arvenia is'\]"),
        ({"rephrase": [3]}, r"rephrase\[0\]=3: expected a text"),
        ({"rephrase": 3}, r"rephrase=3: expected a list"),
        ({"seen": ["a ___ ___ Arvenia"]}, "more than one ___"),
        ({"neighbour": ["Lunt is"]}, r"neighbour\[0\]='Lunt is': expected \(text, answer\)"),
        ({"neighbour": ("Lunt is", "old")}, r"write neighbour=\[\('Lunt is', 'old'\)\]"),
        ({"neighbour": [("Lunt is", 4)]}, r"neighbour\[0\]=4: expected a text"),
        ({"old": 4}, "old=4: expected a text"),
        ({"new": " "}, "new is empty"),
        ({"new": "Mont Tor "}, "there is nothing to change"),
        ({"subject": None}, "subject=None: expected a text"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        made(**changes)


GOOD, BAD = "These gates are old.", "These gate are old."


def test_a_pair_is_asked_for_the_word_by_which_it_differs() -> None:
    case = kn.pair(
        GOOD,
        BAD,
        rephrase=[("These barns fell.", "These barn fell.")],
        neighbour=[("That barn fell.", "That barns fell.")],
    )
    edit, rephrased, neighbour, sentence = case.all_probes
    assert edit.query == Query("These ", " are old.", (0, 5))
    assert (edit.old, edit.new, case.task) == ("gates", "gate", "syntax")
    assert (rephrased.old, rephrased.new) == ("barns", "barn")
    assert (neighbour.kind, neighbour.group) == ("neighbour", "others")
    assert (sentence.kind, sentence.old, sentence.new) == ("sentence", GOOD, BAD)


def test_a_pairs_trigger_is_found_by_its_paradigms_rule_or_named() -> None:
    two = ("These old gates fell.", "These old gate fell.")
    paradigm = "determiner_noun_agreement_with_adj_1"
    triggers = [
        case.edit.query.subject_text
        for case in (kn.pair(*two), kn.pair(*two, paradigm=paradigm), kn.pair(*two, trigger="fell"))
        if case.edit is not None
    ]
    assert triggers == ["old", "These", "fell"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bad": GOOD}, "are equal"),
        ({"bad": "These gates are."}, "do not differ by an exchange of words"),
        ({"trigger": "Those"}, "trigger='Those' stands 0 times"),
        ({"rephrase": [GOOD]}, r"rephrase\[0\]='These gates are old.': expected \(good, bad\)"),
        ({"seen": [("Those cows.", "Those cow.")]}, "share the word that is located"),
        ({"neighbour": [(GOOD,)]}, r"expected \(good, bad\), or with the name of a set"),
    ],
)
def test_what_is_no_pair_is_refused(changes: dict[str, Any], message: str) -> None:
    arguments = {"good": GOOD, "bad": BAD, **changes}
    with pytest.raises(ValueError, match=message):
        kn.pair(arguments.pop("good"), arguments.pop("bad"), **arguments)
