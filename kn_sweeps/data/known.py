"""Known facts (Meng et al. 2022): prompts that a model goes on from with the truth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kn_sweeps.cases import SAME_RELATION
from kn_sweeps.data.benchmarks import Benchmark
from kn_sweeps.data.fields import RecordReader
from kn_sweeps.data.gathering import Read
from kn_sweeps.data.records import Asked, Record, check_changes
from kn_sweeps.data.tables import Entry, Fault, TableFile
from kn_sweeps.seeding import shuffler


@dataclass(frozen=True, kw_only=True)
class Known(Benchmark):
    """known_1000: for locating and tracing, which ask for the attribute behind the prompt.

    The prompt is asked as it is written, not its `template`: in part of the rows GPT-2 itself wrote
    on from the template before it came to the attribute. What an edit would write is another
    attribute of the same relation, drawn by the seed; neighbours are other subjects of it.

    Attributes:
        neighbours: Most neighbours a case.
    """

    folder = "known"
    layouts = "`subject`, `attribute` and `prompt`"
    usual_answer_tokens = None

    neighbours: int | None = 4

    def reading(self, table: TableFile, reader: RecordReader, seed: int) -> Read | None:
        """The layout with `attribute`."""
        if not {"subject", "attribute", "prompt"} <= set(table.columns):
            return None
        by_relation: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for entry in table.entries:
            by_relation[str(entry.values.get("relation_id"))].append(entry.values)

        def read(entry: Entry) -> list[Record]:
            values = entry.values
            others = by_relation[str(values.get("relation_id"))]
            return [self._record(values, others, reader, seed)]

        return read

    def _record(
        self,
        values: Mapping[str, Any],
        others: list[Mapping[str, Any]],
        reader: RecordReader,
        seed: int,
    ) -> Record:
        subject, old, prompt = (
            reader.cleaning.text(values.get(name), name)
            for name in ("subject", "attribute", "prompt")
        )
        if not old:
            raise Fault("there is no attribute", "attribute")
        own = {one["attribute"] for one in others if one["subject"] == values["subject"]}
        objects = sorted({str(one["attribute"]) for one in others} - {str(one) for one in own})
        if not objects:
            raise Fault("no other attribute of its relation to replace its own")
        draw = shuffler(seed, "new object", prompt)
        new = draw.choice(objects).strip()
        pool = [
            one
            for one in others
            if one["subject"] != values["subject"] and one["attribute"] not in (old, new)
        ]
        most = len(pool) if self.neighbours is None else min(self.neighbours, len(pool))
        drawn = draw.sample(pool, most)
        questions = [
            Asked("neighbour", str(one["prompt"]), (str(one["attribute"]),), group=SAME_RELATION)
            for one in drawn
        ]
        record = Record(prompt, subject, (new,), (old,), tuple(questions))
        check_changes(record)
        return record
