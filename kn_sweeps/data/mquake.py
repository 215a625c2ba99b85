"""MQuAKE (Zhong et al. 2023): edits that are in effect together, and what follows from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kn_sweeps.data.benchmarks import Benchmark, mappings
from kn_sweeps.data.fields import RecordReader
from kn_sweeps.data.gathering import Read
from kn_sweeps.data.records import Asked, Record, Texts
from kn_sweeps.data.tables import Entry, Fault, TableFile

UNEDITED_HOP = "unedited_hop"
CONTRADICT = (
    "facts that cases edit to several answers: cases of regime=batch or sequential contradict "
    "each other there"
)


@dataclass(frozen=True, kw_only=True)
class MQuAKE(Benchmark):
    """Cases of up to four edits with multi-hop questions.

    The edits of a case are in effect together. Its multi-hop questions are `portability` of the
    first, by the number of hops; an edit's own question is a rephrasing of it; hops of the new
    chain that no edit changes are neighbours. `limit` counts MQuAKE's cases.

    Attributes:
        repository: The hub's data set.
    """

    folder = "mquake"
    layouts = "`requested_rewrite` (a list), `questions` and `new_answer`"

    repository: str | None = "henryzhongsc/MQuAKE-Remastered"

    def reading(self, table: TableFile, reader: RecordReader, seed: int) -> Read | None:
        """The layout with a list of rewrites."""
        del seed
        if not {"requested_rewrite", "questions"} <= set(table.columns):
            return None
        _note_shared(table, reader)
        return lambda entry: _records(entry, table.path.stem, reader)


def _note_shared(table: TableFile, reader: RecordReader) -> None:
    """Count the edits that contradict those of other cases: together, not all can hold."""
    written: dict[tuple[str, str], set[str]] = defaultdict(set)
    for entry in table.entries:
        for one in mappings(entry.values["requested_rewrite"]):
            new = one.get("target_new")
            text = new.get("str") if isinstance(new, Mapping) else new
            written[str(one.get("prompt")), str(one.get("subject"))].add(str(text))
    reader.cleaning.notes[CONTRADICT] += sum(len(texts) > 1 for texts in written.values())


def _records(entry: Entry, source: str, reader: RecordReader) -> list[Record]:
    values = entry.values
    rewrites = list(mappings(values["requested_rewrite"]))
    if not rewrites:
        raise Fault("there is no rewrite", "requested_rewrite")
    case = f"{source}/{entry.where}"
    made = []
    for one in rewrites:
        own = {key: value for key, value in one.items() if key != "question"}
        record = reader(own)
        text = reader.cleaning.text(one.get("question"), "question")
        asked = [Asked("rephrase", text, column="question")] if text else []
        made.append(
            replace(record, questions=tuple(asked), together=case if len(rewrites) > 1 else "")
        )
    first = made[0]
    made[0] = replace(
        first,
        questions=(
            *first.questions,
            *_multi_hops(values, reader),
            *_unedited(values, rewrites, reader),
        ),
    )
    return made


def _multi_hops(values: Mapping[str, Any], reader: RecordReader) -> Iterator[Asked]:
    old = _answers(values, "answer", reader)
    new = _answers(values, "new_answer", reader)
    if not new:
        raise Fault("there is no answer to its questions", "new_answer")
    hops = len(values.get("new_single_hops") or ()) or len(values.get("single_hops") or ())
    group = f"{hops}_hops" if hops else ""
    for question in values["questions"] or ():
        text = reader.cleaning.text(question, "questions")
        yield Asked("portability", text, new, old, group, "questions")


def _unedited(
    values: Mapping[str, Any], rewrites: list[Any], reader: RecordReader
) -> Iterator[Asked]:
    edited = {str(one.get("question")) for one in rewrites}
    edited |= {
        str(one.get("prompt", "")).replace("{}", str(one.get("subject"))) for one in rewrites
    }
    for hop in values.get("new_single_hops") or ():
        text = hop.get("cloze") or hop.get("question")
        if not text or edited & {hop.get("question"), hop.get("cloze")}:
            continue
        answers = _answers(hop, "answer", reader)
        yield Asked("neighbour", text, answers, group=UNEDITED_HOP, column="new_single_hops")


def _answers(values: Mapping[str, Any], name: str, reader: RecordReader) -> Texts:
    """An answer and its other wordings, each once."""
    found = [reader.cleaning.text(values.get(name), name)]
    for more in (f"{name}_alias", f"{name}_aliases", f"{name}_extended"):
        found += [reader.cleaning.text(one, more) for one in values.get(more) or ()]
    return tuple(dict.fromkeys(text for text in found if text))
