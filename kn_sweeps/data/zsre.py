"""zsRE (Levy et al. 2017), as question answering, with the answers of Mitchell et al. (2022)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from kn_sweeps.data.benchmarks import Benchmark, flat
from kn_sweeps.data.fields import RecordReader
from kn_sweeps.data.gathering import Read
from kn_sweeps.data.records import Record
from kn_sweeps.data.tables import Entry, Fault, TableFile

WRITTEN_TRUTH = "portability of a counterfactual answer, which is not written"


@dataclass(frozen=True, kw_only=True)
class ZsRE(Benchmark):
    """zsRE in MEND's layout, and flat ones.

    Attributes:
        repository: The hub's data set.
        writes: `alt`, a counterfactual, over the true answer; or `answers`, the true answer over
            what the model says, as the loaders of ROME and MEMIT do.
    """

    folder = "zsre"
    layouts = "`subject`, `src`, `alt` and `answers`, or `prompt` and `target_new`"

    repository: str | None = "zjunlp/KnowEdit"
    writes: Literal["alt", "answers"] = "alt"

    def reading(self, table: TableFile, reader: RecordReader, seed: int) -> Read | None:
        """The flat layout, whose names MEND's are among; with the truth written where asked."""
        del seed
        read = flat(table, reader)
        if read is None or self.writes == "alt":
            return read

        def truth(entry: Entry) -> list[Record]:
            return [_with_truth(record, reader) for record in read(entry)]

        return truth


def _with_truth(record: Record, reader: RecordReader) -> Record:
    """The record with its true answer as the new one; what it follows from `alt` is no more."""
    if not record.old:
        raise Fault("there is no true answer to write", "answers")
    kept = tuple(one for one in record.questions if one.kind != "portability")
    reader.cleaning.notes[WRITTEN_TRUTH] += len(record.questions) - len(kept)
    return replace(record, new=record.old, old=(), questions=kept)
