"""A seeded grammar of minimal pairs, in BLiMP's paradigms and file format.

A paradigm is a list of contrasts (`Combo`: trigger, good form, bad form) and a rule that puts one
into a random sentence. Two uses share the rules: `write_bundled` writes the 200 pairs per paradigm
that ship with the package, and `Paradigm.sample` gives a training corpus without end.

Neuron attribution for syntax averages over sentences that share a trigger and its two forms, so
the bundled pairs go round the combos in turn: each occurs at least four times.

Regenerate the shipped files, byte for byte, with ``python -m kn_sweeps.tiny.grammar OUT_DIR``.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from kn_sweeps.tiny import grammar_rules as rules
from kn_sweeps.tiny import grammar_words as words
from kn_sweeps.tiny.grammar_rules import Combo, Pair, Rule

PAIRS_PER_PARADIGM = 200
SEED = 2024

Method = Literal["one_prefix", "two_prefix"]
Dependency = Literal["", "prefix", "clause"]
Line = dict[str, str | int | bool]


@dataclass(frozen=True)
class Paradigm:
    """One paradigm.

    Attributes:
        uid: BLiMP's name.
        term: BLiMP's ``linguistics_term``.
        method: which prefix method BLiMP declares valid.
        lexically_identical: BLiMP's flag of this paradigm.
        combos: the contrasts of the bundled pairs.
        all_combos: every contrast that training sentences may use; a superset.
        rule: puts a combo into a sentence; its last argument asks for a misleading distractor.
        dependency: what BLiMP counts the words of as ``dependency_length``: nothing, the prefix or
            the relative clause.
    """

    uid: str
    term: str
    method: Method
    lexically_identical: bool
    combos: tuple[Combo, ...]
    all_combos: tuple[Combo, ...]
    rule: Rule
    dependency: Dependency = ""

    def sample(self, rng: random.Random) -> Pair:
        """A random pair for training.

        Distractors agree with the head half of the time; were they always misleading, as in the
        bundled pairs, a model could learn to disagree with the nearest noun instead of to agree
        with the head.
        """
        return self.rule(rng.choice(self.all_combos), rng, rng.random() < 0.5)

    def row(self, pair: Pair, pair_id: int) -> Line:
        """The pair in BLiMP's file format."""
        row: Line = {"sentence_good": pair.good, "sentence_bad": pair.sentence(good=False)}
        if self.method == "one_prefix":
            row["one_prefix_prefix"] = pair.before
            row["one_prefix_word_good"] = pair.combo.good
            row["one_prefix_word_bad"] = pair.combo.bad
        else:
            row["two_prefix_prefix_good"] = pair.prefix()
            row["two_prefix_prefix_bad"] = pair.prefix(good=False)
            row["two_prefix_word"] = pair.combo.trigger
        if self.dependency:
            row["dependency_length"] = (
                pair.clause if self.dependency == "clause" else len(pair.before.split())
            )
        return row | {
            "field": "morphology",
            "linguistics_term": self.term,
            "UID": self.uid,
            "simple_LM_method": True,
            "one_prefix_method": self.method == "one_prefix",
            "two_prefix_method": self.method == "two_prefix",
            "lexically_identical": self.lexically_identical,
            "pairID": str(pair_id),
        }


def _determiner_paradigms() -> list[Paradigm]:
    table = (
        ("", "", words.THINGS, False),
        ("_irregular", "_irregular", words.IRREGULAR_NOUNS, False),
        # BLiMP's own names differ between the two halves.
        ("_with_adjective", "_with_adj", words.THINGS, True),
    )
    paradigms = []
    for first, second, nouns, adjective in table:
        for number, name in ((1, first), (2, second)):
            combos = rules.noun_combos(nouns, noun_differs=number == 1)
            make = rules.noun_after_determiner if number == 1 else rules.determiner_before_noun
            paradigms.append(
                Paradigm(
                    uid=f"determiner_noun_agreement{name}_{number}",
                    term="determiner_noun_agreement",
                    method="one_prefix" if number == 1 else "two_prefix",
                    lexically_identical=True,
                    combos=combos,
                    all_combos=combos,
                    rule=make(adjective=adjective),
                )
            )
    return paradigms


class _Agreement(NamedTuple):
    """What tells the subject-verb paradigms apart."""

    uid: str
    nouns: Sequence[words.Noun]
    rule: Rule
    method: Method = "one_prefix"
    dependency: Dependency = ""


_SUBJECT_AND_VERB: tuple[tuple[int, Rule, Method], ...] = (
    (1, rules.verb_after_subject, "one_prefix"),
    (2, rules.subject_before_verb, "two_prefix"),
)
_AGREEMENT = tuple(
    _Agreement(f"{kind}_plural_subject_verb_agreement_{number}", nouns, rule, method)
    for kind, nouns in (("regular", words.PEOPLE), ("irregular", words.IRREGULAR_PEOPLE))
    for number, rule, method in _SUBJECT_AND_VERB
) + (
    _Agreement(
        "distractor_agreement_relational_noun",
        words.RELATIVES,
        rules.verb_after_relational_noun,
        dependency="prefix",
    ),
    _Agreement(
        "distractor_agreement_relative_clause",
        words.PEOPLE,
        rules.verb_after_relative_clause,
        dependency="clause",
    ),
)


def _verb_paradigms() -> list[Paradigm]:
    paradigms = []
    for shift, row in enumerate(_AGREEMENT):
        verb_differs = row.method == "one_prefix"
        paradigms.append(
            Paradigm(
                uid=row.uid,
                term="subject_verb_agreement",
                method=row.method,
                lexically_identical=False,
                # Two finite verbs a noun: 200 pairs are enough for 48 combos, not for all 144.
                combos=rules.verb_combos(row.nouns, verb_differs=verb_differs, shift=shift),
                all_combos=rules.verb_combos(row.nouns, verb_differs=verb_differs),
                rule=row.rule,
                dependency=row.dependency,
            )
        )
    return paradigms


def _anaphor_paradigms() -> list[Paradigm]:
    table = (
        ("anaphor_gender_agreement", rules.gender_combos(), rules.reflexive_after_name, False),
        ("anaphor_number_agreement", rules.number_combos(), rules.reflexive_after_noun, True),
    )
    return [
        Paradigm(uid, "anaphor_agreement", "one_prefix", identical, combos, combos, rule)
        for uid, combos, rule, identical in table
    ]


PARADIGMS: tuple[Paradigm, ...] = (
    *_determiner_paradigms(),
    *_verb_paradigms(),
    *_anaphor_paradigms(),
)


def bundled_pairs(paradigm: Paradigm, count: int = PAIRS_PER_PARADIGM) -> list[Pair]:
    """The shipped pairs: distinct sentences, every combo equally often, in random order."""
    # One generator per paradigm: adding a paradigm leaves the other files as they are.
    rng = random.Random(f"{SEED}/{paradigm.uid}")
    pairs: dict[str, Pair] = {}
    while len(pairs) < count:
        combo = paradigm.combos[len(pairs) % len(paradigm.combos)]
        pair = paradigm.rule(combo, rng, True)
        pairs.setdefault(pair.good, pair)
    shuffled = list(pairs.values())
    rng.shuffle(shuffled)
    return shuffled


def write_bundled(directory: Path) -> list[Path]:
    """Write one JSON Lines file per paradigm and return the paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for paradigm in PARADIGMS:
        rows = [paradigm.row(pair, index) for index, pair in enumerate(bundled_pairs(paradigm))]
        path = directory / f"{paradigm.uid}.jsonl"
        path.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode())
        paths.append(path)
    return paths


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: write the bundled paradigms to a folder."""
    parser = argparse.ArgumentParser(
        prog="python -m kn_sweeps.tiny.grammar", description=main.__doc__
    )
    parser.add_argument(
        "out_dir", type=Path, help="folder for the .jsonl files (kn_sweeps/data/bundled/blimp)"
    )
    for path in write_bundled(parser.parse_args(argv).out_dir):
        print(path)


if __name__ == "__main__":
    main()
