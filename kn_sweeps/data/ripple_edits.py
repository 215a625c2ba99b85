"""RippleEdits (Cohen et al. 2024): what should follow from an edit, and what should not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kn_sweeps.cases import ProbeKind
from kn_sweeps.data.benchmarks import Benchmark
from kn_sweeps.data.fields import RecordReader, plain
from kn_sweeps.data.gathering import Read
from kn_sweeps.data.records import Asked, Record, Texts, check_changes
from kn_sweeps.data.tables import Fault, TableFile

TESTS: Mapping[str, ProbeKind] = {
    **dict.fromkeys(("relation_specificity", "relation_specifity", "forgetfulness"), "neighbour"),
    **dict.fromkeys(
        ("logical_generalization", "subject_aliasing", "compositionality_i", "compositionality_ii"),
        "portability",
    ),
}
"""The six kinds of tests, and what each is here: what stays, and what follows."""
_NAMES = {"relation_specifity": "relation_specificity"}
ALTERNATIVES = "tests of several questions, of which the first is asked"
_IS = " is "


@dataclass(frozen=True, kw_only=True)
class RippleEdits(Benchmark):
    """RippleEdits: `popular`, `random` and `recent`.

    An edit is published as a sentence; its new answer is what follows its last `is`, its old one
    that of `original_fact`. Conditions of tests are not asked: `portability_gated` counts what the
    model knew.
    """

    folder = "ripple_edits"
    layouts = "`edit` and lists of tests such as `Relation_Specificity`"

    def reading(self, table: TableFile, reader: RecordReader, seed: int) -> Read | None:
        """The layout with `edit` and tests."""
        del seed
        if "edit" not in table.columns or not {plain(name) for name in table.columns} & set(TESTS):
            return None
        return lambda entry: [_record(entry.values, reader)]


def _record(values: Mapping[str, Any], reader: RecordReader) -> Record:
    edit = values["edit"]
    sentence = reader.cleaning.text(edit.get("prompt"), "edit").removesuffix(".")
    before = edit.get("original_fact") or {}
    original = reader.cleaning.text(before.get("prompt"), "original_fact").removesuffix(".")
    common = os.path.commonprefix([sentence, original]) if original else sentence
    cut = common.rfind(_IS)
    if cut < 0:
        raise Fault("its sentence does not tell where the new answer begins", "edit", sentence)
    prompt = sentence[: cut + len(_IS)].strip()
    new, old = (text[cut + len(_IS) :].strip() for text in (sentence, original))
    questions = list(_questions(values, reader))
    record = Record(
        prompt,
        reader.cleaning.text(edit.get("subject"), "subject") or _subject(prompt, edit, values),
        (new,) if new else (),
        (old,) if old else (),
        tuple(questions),
    )
    check_changes(record)
    return record


def _questions(values: Mapping[str, Any], reader: RecordReader) -> Iterator[Asked]:
    for column, tests in values.items():
        name = plain(column)
        kind = TESTS.get(name)
        if kind is None:
            continue
        for test in tests or ():
            queries = test.get("test_queries") or ()
            reader.cleaning.notes[ALTERNATIVES] += len(queries) > 1
            for query in list(queries)[:1]:
                text = reader.cleaning.text(query.get("prompt"), column)
                answers = _answers(query.get("answers"), reader, column)
                if text and answers:
                    yield Asked(kind, text, answers, group=_NAMES.get(name, name), column=column)


def _answers(found: Any, reader: RecordReader, column: str) -> Texts:
    """The first answer with its aliases, then other right ones."""
    texts = []
    for one in found or ():
        if isinstance(one, Mapping):
            texts += [one.get("value"), *(one.get("aliases") or ())]
        else:
            texts.append(one)
    cleaned = (reader.cleaning.text(text, column) for text in texts)
    return tuple(dict.fromkeys(text for text in cleaned if text))


def _subject(prompt: str, edit: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """What stands behind an `of` of the prompt and in another question about the same subject."""
    about = [
        str(query.get("prompt"))
        for tests in values.values()
        if isinstance(tests, list)
        for test in tests
        if isinstance(test, Mapping)
        for query in (*(test.get("test_queries") or ()), *(test.get("condition_queries") or ()))
        if query.get("subject_id") == edit.get("subject_id") and edit.get("subject_id")
    ]
    sentence = prompt.removesuffix("is").strip()
    parts = sentence.split(" of ")
    candidates = [" of ".join(parts[n:]) for n in range(1, len(parts))]
    return next((one for one in candidates if any(one in text for text in about)), "")
