"""What columns are called: many names for one part of a record, as published files have them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from kn_sweeps.cases import ProbeKind
from kn_sweeps.data.questions import marked_subject, placed
from kn_sweeps.data.records import Asked, Record, Texts, check_changes, reversal
from kn_sweeps.data.tables import Cleaning, Fault
from kn_sweeps.mistakes import did_you_mean

Part = Literal["prompt", "subject", "new", "old", "new_aliases", "old_aliases", "unread"]

PARTS: Mapping[Part, tuple[str, ...]] = {
    "prompt": ("prompt", "src", "question", "query", "edit_prompt", "update", "template", "cloze"),
    "subject": ("subject", "entity", "sub_label", "subject_label"),
    "new": (
        *("new", "target_new", "new_answer", "answer_new", "new_target", "new_object", "target"),
        *("alt", "target_false", "object_new", "edit_target", "ans"),
    ),
    "old": (
        *("old", "ground_truth", "target_true", "old_answer", "answer_old", "target_old"),
        *("answers", "object_old", "truth", "obj_label"),
    ),
    "new_aliases": ("new_aliases", "new_alias", "new_answer_alias", "new_answer_aliases"),
    "old_aliases": ("old_aliases", "old_alias", "answer_alias", "answer_aliases"),
    "unread": (
        *("id", "case_id", "idx", "index", "known_id", "pararel_idx", "relation_id", "relation"),
        *("tag", "cond", "pred", "prediction", "target_true_id", "target_false_id", "comment"),
        *("relation_prefix", "relation_suffix", "sub_uri", "obj_uri", "uuid", "predicate_id"),
    ),
}
"""Names of a record's parts, the first the one to use; `unread` is known and not used."""

QUESTIONS: Mapping[ProbeKind, tuple[str, ...]] = {
    "rephrase": (
        *("rephrase", "rephrases", "rephrased", "rephrasing", "rephrasings", "paraphrase"),
        *("paraphrases", "paraphrased", "personas", "generality"),
    ),
    "neighbour": (
        *("neighbour", "neighbor", "neighbours", "neighbors", "neighbourhood", "neighborhood"),
        *("locality", "loc", "unrelated"),
    ),
    "reversal": ("reverse", "reversed", "reversal", "reversals", "inverse"),
    "synonym": ("synonym", "synonyms", "synonymy"),
    "portability": (
        *("portability", "consequence", "consequences", "mhop", "multi_hop", "multihop"),
        *("one_hop", "hop", "hops", "reasoning"),
    ),
    "continuation": ("continuation", "continuations", "generation"),
}
"""Names of questions, the first the one to use; `_prompt` may follow, and `_answer` for theirs."""

_ANSWER = re.compile(r"_(answers?|ans|ground_truth|truth|targets?)$")
_TEXT = re.compile(r"_(prompts?|questions?|texts?)$")
_INNER_TEXT = ("prompt", "question", "new_question", "text", "cloze", "query")
_INNER_ANSWER = ("ground_truth", "answer", "answers", "new_answer", "target", "target_new", "ans")
_INNER_UNREAD = ("recalled_relation", "id", "relation", "relation_id", "subject", "type")
_SEVERAL = re.compile(r"\s\|\s")
_NO_ANSWER = ("<|endoftext|>", "</s>")
NQ = "nq question: "
"""What stands before the neighbours of zsRE, which are Natural Questions; it is no text."""


def plain(name: str) -> str:
    """A name as it is compared: `Relation Specificity`, `targetNew` and `target-new` alike."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\s\-_]+", "_", spaced).lower()


@dataclass(frozen=True)
class Named:
    """What a column is.

    Attributes:
        part: A part of the record; None for a question or its answer.
        kind: A question's kind.
        number: `2` of `rephrase_2`; empty for none.
        answer: Whether it has the question's answer.
        rank: How far the name is from the one to use.
    """

    part: Part | None = None
    kind: ProbeKind | None = None
    number: str = ""
    answer: bool = False
    rank: int = 0


_PARTS = {alias: (part, n) for part, names in PARTS.items() for n, alias in enumerate(names)}
_KINDS: dict[str, ProbeKind] = {alias: kind for kind, names in QUESTIONS.items() for alias in names}


@cache
def named(column: str) -> Named | None:
    """What a column is by its name; None for one that nobody knows."""
    name = plain(column)
    if name in _PARTS:
        part, rank = _PARTS[name]
        return Named(part=part, rank=rank)
    number = "".join(re.findall(r"\d+", name))
    base = re.sub(r"_+", "_", re.sub(r"\d+", "", name)).strip("_")
    bare = _ANSWER.sub("", base)
    kind = _KINDS.get(_TEXT.sub("", bare))
    if kind is None:
        return None
    return Named(kind=kind, number=number, answer=bare != base)


def usable_names() -> list[str]:
    """The names to use, for messages."""
    parts = [names[0] for part, names in PARTS.items() if part != "unread"]
    kinds = [names[0] for names in QUESTIONS.values()]
    return [*parts, *kinds, *(f"{name}_answer" for name in kinds)]


def unknown(columns: Iterable[str]) -> list[str]:
    """What to say of each column that is not known, with the nearest name."""
    names = usable_names()
    return [
        f"the column {column!r} is not used{did_you_mean(plain(column), names)}"
        for column in columns
        if named(column) is None
    ]


@dataclass
class RecordReader:
    """Makes records of flat rows.

    Attributes:
        cells: Whether a value is one text in which several may stand, apart by ` | `.
        cleaning: Cleans texts and counts.
    """

    cells: bool = False
    cleaning: Cleaning = field(default_factory=Cleaning)

    def __call__(self, values: Mapping[str, Any]) -> Record:
        """A row as a record.

        Raises:
            Fault: If something is missing or has another form.
        """
        parts = self._parts(values)
        prompt = placed(self._text(values, parts.get("prompt")))
        subject = self._text(values, parts.get("subject"))
        if not subject:
            subject, prompt = marked_subject(prompt)
        old = self._known(values, parts.get("old")) + self._all(values, parts.get("old_aliases"))
        new = self._answers(values, parts.get("new")) + self._all(values, parts.get("new_aliases"))
        record = Record(
            prompt,
            subject,
            tuple(dict.fromkeys(new)),
            tuple(dict.fromkeys(old)),
            tuple(self._questions(values, subject)),
        )
        check_changes(record)
        return record

    def _parts(self, values: Mapping[str, Any]) -> dict[Part, str]:
        """Which column has each part: of several the one whose name is nearest to ours."""
        found: dict[Part, tuple[int, str]] = {}
        for column, value in values.items():
            one = named(column)
            if one is None or one.part is None or one.part == "unread" or value in (None, ""):
                continue
            if one.part not in found or one.rank < found[one.part][0]:
                if one.part in found:
                    self._unused(found[one.part][1], column)
                found[one.part] = (one.rank, column)
            else:
                self._unused(column, found[one.part][1])
        return {part: column for part, (_, column) in found.items()}

    def _unused(self, column: str, instead: str) -> None:
        self.cleaning.notes[f"the column {column!r} is not used, because {instead!r} is"] += 1

    def _text(self, values: Mapping[str, Any], column: str | None) -> str:
        return "" if column is None else self.cleaning.text(values[column], column)

    def _answers(self, values: Mapping[str, Any], column: str | None) -> Texts:
        """An answer: a text, which is one whatever it has, or a list with its other wordings."""
        if column is None:
            return ()
        value = values[column]
        if isinstance(value, dict):
            value = value.get("str", value.get("label", value.get("value", value)))
        return tuple(self._flat(value, column))

    def _known(self, values: Mapping[str, Any], column: str | None) -> Texts:
        """An old answer; the end of a text stands for none in files made for EasyEdit."""
        found = self._answers(values, column)
        kept = tuple(one for one in found if one not in _NO_ANSWER)
        if len(kept) < len(found):
            self.cleaning.notes[f"{column!r} is the end of a text, which is no answer"] += 1
        return kept

    def _all(self, values: Mapping[str, Any], column: str | None) -> Texts:
        return () if column is None else tuple(self._flat(self._split(values[column]), column))

    def _flat(self, value: Any, column: str) -> Iterator[str]:
        """The texts of a text or of lists in lists; empty ones are none."""
        if isinstance(value, list | tuple):
            for one in value:
                yield from self._flat(one, column)
        elif text := self.cleaning.text(value, column):
            yield text

    def _split(self, value: Any) -> Any:
        """The texts of a cell: a JSON list, or what stands between ` | `."""
        if not self.cells or not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            try:
                found = json.loads(value, parse_int=str, parse_float=str)
            except json.JSONDecodeError:
                found = None
            if isinstance(found, list):
                return found
        several = _SEVERAL.split(value)
        return several if len(several) > 1 else value

    def _questions(self, values: Mapping[str, Any], subject: str) -> Iterator[Asked]:
        answers = {
            (one.kind, one.number): column
            for column in values
            if (one := named(column)) is not None and one.answer
        }
        for column, value in values.items():
            one = named(column)
            if one is None or one.kind is None or one.answer or value in (None, "", [], {}):
                continue
            said = answers.pop((one.kind, one.number), None)
            given = None if said is None else self._split(values[said])
            for text, right, group in self._nested(self._split(value), given, column):
                yield self._asked(one.kind, text, right, group, subject, column)
        for kind, number in answers:
            column = answers[kind, number]
            if values[column] not in (None, "", [], {}):
                question = column.replace("answer", "").strip("_")
                raise Fault(f"there is no question that it answers ({question!r})", column)

    def _asked(
        self, kind: ProbeKind, text: str, right: Texts, group: str, subject: str, column: str
    ) -> Asked:
        if kind == "reversal":
            if not right and not subject:
                raise Fault("a reversed question needs its answer, or the row a subject", column)
            return reversal(text, right[0] if right else subject, column)
        if kind == "neighbour" and text.startswith(NQ):
            text = text.removeprefix(NQ)
        if kind in ("synonym", "portability") and not right:
            raise Fault(f"a question of kind {kind} needs its answer", column)
        return Asked(kind, text, right, group=group, column=column)

    def _nested(
        self, value: Any, given: Any, column: str, group: str = ""
    ) -> Iterator[tuple[str, Texts, str]]:
        """Questions, their answers and their sets, of texts, lists and mappings of them."""
        if value in (None, "", [], {}):
            return
        if isinstance(value, str):
            text = self.cleaning.text(value, column)
            if text:
                yield text, tuple(dict.fromkeys(self._flat(given, column))), group
        elif isinstance(value, list | tuple):
            yield from self._listed(list(value), given, column, group)
        elif isinstance(value, Mapping):
            yield from self._mapped(value, column, group)
        else:
            raise Fault("expected a text, a list or a mapping of questions", column, repr(value))

    def _listed(
        self, value: list[Any], given: Any, column: str, group: str
    ) -> Iterator[tuple[str, Texts, str]]:
        if given in (None, "", []):
            answers: list[Any] = [None] * len(value)
        elif isinstance(given, list) and len(given) == len(value):
            answers = given
        else:
            count = len(given) if isinstance(given, list) else 1
            raise Fault(f"{len(value)} questions, but {count} answers", column)
        for one, answer in zip(value, answers, strict=True):
            if isinstance(one, list) and len(one) == 2 and answer is None:
                one, answer = one  # noqa: PLW2901 - a question and its answer
            yield from self._nested(one, answer, column, group)

    def _mapped(
        self, value: Mapping[str, Any], column: str, group: str
    ) -> Iterator[tuple[str, Texts, str]]:
        keys = {plain(str(key)): key for key in value}
        text = next((keys[name] for name in _INNER_TEXT if name in keys), None)
        if text is None:
            for key, one in value.items():
                yield from self._nested(one, None, column, plain(str(key)))
            return
        answer = next((keys[name] for name in _INNER_ANSWER if name in keys), None)
        for name, key in keys.items():
            if key not in (text, answer) and name not in _INNER_UNREAD:
                self.cleaning.notes[f"{key!r} in {column!r} is not used"] += 1
        yield from self._nested(
            value[text], None if answer is None else value[answer], column, group
        )
