"""ConflictEdit (Li et al. 2024): a fact and its inverse under a rule, as a test of symmetry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kn_sweeps.cases import RESIDUE
from kn_sweeps.data.benchmarks import Benchmark
from kn_sweeps.data.fields import RecordReader
from kn_sweeps.data.gathering import Read
from kn_sweeps.data.records import Asked, Record, check_changes, reversal
from kn_sweeps.data.tables import Fault, TableFile


@dataclass(frozen=True, kw_only=True)
class ConflictEdit(Benchmark):
    """Reverse pairs: the first edit of each, which its inverse relation is asked about.

    The second edit of a pair contradicts the first under the rule (P800>P170, say); it is not
    made, its relation is how the first one is read backwards.
    """

    folder = "conflict_edit"
    layouts = "`rule`, `triples` and `edits`"

    def reading(self, table: TableFile, reader: RecordReader, seed: int) -> Read | None:
        """The layout with `triples` and `edits`."""
        del seed
        if not {"edits", "triples"} <= set(table.columns):
            return None
        return lambda entry: [_record(entry.values, reader)]


def _record(values: Mapping[str, Any], reader: RecordReader) -> Record:
    if values.get("type", "reverse") != "reverse" or len(values["edits"]) != 2:
        raise Fault("its type is not reverse, whose rules can be read backwards")
    edit, back = values["edits"]

    def label(node: Mapping[str, Any], name: str) -> str:
        found = node.get(name)
        text = found.get("label") if isinstance(found, Mapping) else found
        return reader.cleaning.text(text, name)

    subject, old, new = label(edit, "subject"), label(edit, "object"), label(edit, "new_object")
    if label(back, "subject") != new or label(back, "object") != subject:
        raise Fault("its second edit is not about what the first one writes")
    inverse = reader.cleaning.text(back["relation"]["prompt"], "prompt")
    questions = [
        reversal(inverse.replace("{}", new), subject, "edits"),
        Asked("reversal", inverse.replace("{}", old), (subject,), (subject,), RESIDUE, "edits"),
    ]
    if question := reader.cleaning.text(edit["relation"].get("query"), "query"):
        questions.insert(0, Asked("rephrase", question, column="query"))
    prompt = reader.cleaning.text(edit["relation"]["prompt"], "prompt")
    record = Record(prompt, subject, (new,) if new else (), (old,) if old else (), tuple(questions))
    check_changes(record)
    return record
