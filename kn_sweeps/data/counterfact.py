"""CounterFact (Meng et al. 2022): counterfactual facts with paraphrases and neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kn_sweeps.data.benchmarks import Benchmark
from kn_sweeps.data.fields import RecordReader
from kn_sweeps.data.gathering import Read
from kn_sweeps.data.records import Asked, Record
from kn_sweeps.data.tables import Entry, Fault, TableFile

NEIGHBOURHOOD, ATTRIBUTE = "neighbourhood", "attribute"
FLATTENED = "flattened"
NOT_A_PARAPHRASE = (
    "rephrase_prompt without the sentence that stands before CounterFact's paraphrases: most are "
    "its generation prompts, which ask for something near the fact; see docs/data.md"
)


@dataclass(frozen=True, kw_only=True)
class CounterFact(Benchmark):
    """CounterFact in its own layout, and flattened as EasyEdit has it.

    Attributes:
        repository: The hub's data set.
        attributes: Most prompts about other subjects of which the new answer is true; they are
            neighbours of the set `attribute`.
        continuations: Most of the prompts that the model goes on with, for fluency.
    """

    folder = "counterfact"
    layouts = "`requested_rewrite`, or `prompt`, `subject`, `ground_truth` and `target_new`"

    repository: str | None = "azhx/counterfact"
    attributes: int | None = 0
    continuations: int | None = 0

    def reading(self, table: TableFile, reader: RecordReader, seed: int) -> Read | None:
        """The layout with `requested_rewrite`; of the flat one, what its rephrasings are."""
        del seed
        if "requested_rewrite" in table.columns:
            return lambda entry: [self._native(entry, reader)]
        if "rephrase_prompt" not in table.columns or "case_id" not in table.columns:
            return None

        def read(entry: Entry) -> list[Record]:
            record = reader(entry.values)
            bare = [_is_bare(one, record.subject) for one in record.questions]
            reader.cleaning.notes[NOT_A_PARAPHRASE] += sum(bare)
            marked = [
                replace(one, group=FLATTENED) if is_bare else one
                for one, is_bare in zip(record.questions, bare, strict=True)
            ]
            return [replace(record, questions=tuple(marked))]

        return read

    def _native(self, entry: Entry, reader: RecordReader) -> Record:
        values = entry.values
        rewrite = values["requested_rewrite"]
        if not isinstance(rewrite, Mapping):
            raise Fault("expected one rewrite", "requested_rewrite", repr(rewrite))
        record = reader(rewrite)
        asked = _texts(values, "paraphrase_prompts", reader)
        questions = [Asked("rephrase", text, column=column) for text, column in asked]
        for column, answers, group, most in (
            ("neighborhood_prompts", record.old, NEIGHBOURHOOD, None),
            ("attribute_prompts", record.new, ATTRIBUTE, self.attributes),
        ):
            texts = list(_texts(values, column, reader))[:most]
            questions += [
                Asked("neighbour", text, answers, group=group, column=name) for text, name in texts
            ]
        written = dict.fromkeys(_texts(values, "generation_prompts", reader))
        questions += [Asked("continuation", text, column=column) for text, column in written]
        return replace(record, questions=tuple(questions))


def _texts(
    values: Mapping[str, Any], column: str, reader: RecordReader
) -> Iterator[tuple[str, str]]:
    """The texts of a list, each with its column; those of multi_counterfact may have answers."""
    for one in values.get(column) or ():
        text = reader.cleaning.text(one.get("prompt") if isinstance(one, Mapping) else one, column)
        if text:
            yield text, column


def _is_bare(one: Asked, subject: str) -> bool:
    """Whether a flat row's rephrasing has no sentence before the one about the subject."""
    before = one.text.split(subject)[0]
    return one.kind == "rephrase" and not any(mark in before for mark in (". ", "\n", "! ", "? "))
