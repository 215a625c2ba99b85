"""The rows of a run, one a probe under an edit: their columns, types, units and meanings.

`Row` is what the evaluation makes, `schema` what a file of rows has, `COLUMNS` what documents say
of them; the three are one list. A case whose edit failed has one row of kind `failed`, which has
the required columns and `failure` and is null in the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Required,
    TypedDict,
    get_args,
    get_origin,
    get_type_hints,
)

from kn_sweeps.cases import Intent, ProbeKind, Task

# Imported where rows are read or written: what only names columns is imported in no time.
if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SCHEMA_VERSION = 8
"""Part of every run id: raise it when the same config gives other rows, or other columns."""

When = Literal["pre", "post"]
"""Before the edit, and with it in effect."""
Target = Literal["old", "new"]
Reading = Literal["log_prob", "exact", "argmax", "token"]
"""What is read of an answer, as of `pre_exact_old`."""


class Row(TypedDict, total=False):
    """One row. What follows a type is its meaning, and its unit where it has one."""

    case: Required[Annotated[str, "the case's id"]]
    edit: Required[Annotated[str, "the id of its edit, which other cases may share"]]
    together: Required[
        Annotated[str, "what cases in effect together share whatever the regime; empty for alone"]
    ]
    source: Required[Annotated[str, "the relation or paradigm the case was made from"]]
    task: Required[Annotated[Task, "`fact`, or `syntax`: which of two forms is preferred"]]
    intent: Required[
        Annotated[Intent, "what the edit is for: `replace` old by new, or `erase` old"]
    ]
    after: Required[
        Annotated[
            Literal["edit", "checkpoint", "all"],
            "asked right after the case's own edit, at a `checkpoint` of a sequence, or after "
            "`all` of it",
        ]
    ]
    made: Required[
        Annotated[
            int,
            "how many edits a sequence had made when it was asked; 0 where there is no sequence",
        ]
    ]
    step: Required[
        Annotated[
            int,
            "what was in effect: in `batch` the edits of this step, in `sequential` those of all "
            "steps up to it; in `single`, where it is 0, the row's own edit",
            "from 0",
        ]
    ]
    probe: Required[Annotated[int, "which of the case's probes", "from 0"]]
    kind: Required[
        Annotated[
            ProbeKind | Literal["failed"],
            "what the probe tests; `failed` where there is no edit",
        ]
    ]
    group: Annotated[str, "the named set the probe belongs to; empty for none"]
    prefix: Annotated[str, "text before the answer"]
    suffix: Annotated[str, "text behind the answer, which a causal model does not read"]
    subject: Annotated[str, "the subject or trigger as it stands in the text; empty for none"]
    old: Annotated[str, "the answer before the edit; for syntax, the grammatical form"]
    new: Annotated[str, "the answer that a perfect edit would give"]
    old_given: Annotated[
        bool, "whether the data say `old`; else it is the unedited model's own greedy answer"
    ]
    old_aliases: Annotated[list[str], "other wordings of `old`"]
    new_aliases: Annotated[list[str], "other wordings of `new`"]
    rival: Annotated[str, "the edit's new answer where `new` is another; empty for none"]
    failure: Required[Annotated[str, "why the case could not be edited; empty where it was"]]
    old_ids: Annotated[list[int], "the tokens of `old`", "ids of the tokenizer"]
    new_ids: Annotated[list[int], "the tokens of `new`", "ids of the tokenizer"]
    rival_ids: Annotated[list[int], "the tokens of `rival`", "ids of the tokenizer"]
    pre_answer: Annotated[
        str,
        "the unedited model's greedy answer, as many tokens as the longer of old and new (a masked "
        "model's: as new); empty for a sentence",
    ]
    pre_margin: Annotated[float, "`pre_log_prob_new` - `pre_log_prob_old`", "nats"]
    pre_log_prob_old: Annotated[
        float, "log P(old): of all its tokens, each behind the true ones", "nats"
    ]
    pre_exact_old: Annotated[bool, "whether the greedy answer, cut to old's length, is old"]
    pre_argmax_old: Annotated[bool, "whether each token of old is the argmax behind those before"]
    pre_token_old: Annotated[float, "share of old's tokens that are", "0 to 1"]
    pre_log_prob_new: Annotated[
        float, "log P(new): of all its tokens, each behind the true ones", "nats"
    ]
    pre_exact_new: Annotated[bool, "whether the greedy answer, cut to new's length, is new"]
    pre_argmax_new: Annotated[bool, "whether each token of new is the argmax behind those before"]
    pre_token_new: Annotated[float, "share of new's tokens that are", "0 to 1"]
    pre_log_prob_rival: Annotated[float, "log P(rival), likewise; none without one", "nats"]
    pre_generated: Annotated[
        str,
        "what the unedited model answers freely, to its natural stop, or how it goes on from a "
        "`continuation`; null where it is not asked to",
    ]
    post_answer: Annotated[str, "as `pre_answer`, of the edited model"]
    post_margin: Annotated[float, "`post_log_prob_new` - `post_log_prob_old`", "nats"]
    post_log_prob_old: Annotated[float, "as `pre_log_prob_old`, of the edited model", "nats"]
    post_exact_old: Annotated[bool, "as `pre_exact_old`, of the edited model"]
    post_argmax_old: Annotated[bool, "as `pre_argmax_old`, of the edited model"]
    post_token_old: Annotated[float, "as `pre_token_old`, of the edited model", "0 to 1"]
    post_log_prob_new: Annotated[float, "as `pre_log_prob_new`, of the edited model", "nats"]
    post_exact_new: Annotated[bool, "as `pre_exact_new`, of the edited model"]
    post_argmax_new: Annotated[bool, "as `pre_argmax_new`, of the edited model"]
    post_token_new: Annotated[float, "as `pre_token_new`, of the edited model", "0 to 1"]
    post_log_prob_rival: Annotated[float, "as `pre_log_prob_rival`, of the edited model", "nats"]
    post_generated: Annotated[str, "as `pre_generated`, of the edited model"]
    token_kept: Annotated[
        float, "share of old's tokens whose argmax, behind those before, the edit leaves", "0 to 1"
    ]
    kl: Annotated[float, "KL(pre, post) of the answer's first token; none for a sentence", "nats"]


@dataclass(frozen=True)
class Column:
    """A column of rows.

    Attributes:
        name: Its name.
        type: Of what kind its values are.
        meaning: What it says.
        unit: Its unit or range; empty where it has none.
        required: Whether a row of kind `failed` has it too.
    """

    name: str
    type: Literal["text", "integer", "number", "yes or no", "list of integers", "list of texts"]
    meaning: str
    unit: str
    required: bool


def _column(name: str, hint: Any) -> Column:
    required = get_origin(hint) is Required
    kind, meaning, *unit = get_args(get_args(hint)[0] if required else hint)
    types: dict[Any, Any] = {
        int: "integer",
        float: "number",
        bool: "yes or no",
        list[int]: "list of integers",
        list[str]: "list of texts",
    }
    return Column(name, types.get(kind, "text"), meaning, "".join(unit), required)


COLUMNS = tuple(_column(*one) for one in get_type_hints(Row, include_extras=True).items())
"""Every column, in the order in which a file has them."""


def margin(when: When) -> str:
    """The column of log P(new) - log P(old)."""
    return f"{when}_margin"


def answer(when: When) -> str:
    """The column of the greedy answer."""
    return f"{when}_answer"


def reading(when: When, what: Reading, target: Target) -> str:
    """The column of what is read of one of the two answers."""
    return f"{when}_{what}_{target}"


@cache
def schema() -> pa.Schema:
    """The schema of a file of rows; its fields' metadata say what each is."""
    import pyarrow as pa

    types = {
        "text": pa.string(),
        "integer": pa.int64(),
        "number": pa.float64(),
        "yes or no": pa.bool_(),
        "list of integers": pa.list_(pa.int64()),
        "list of texts": pa.list_(pa.string()),
    }
    fields = [
        pa.field(
            one.name,
            types[one.type],
            nullable=not one.required,
            metadata={"meaning": one.meaning, "unit": one.unit},
        )
        for one in COLUMNS
    ]
    return pa.schema(fields, metadata={"schema_version": str(SCHEMA_VERSION)})


def _table(rows: Sequence[Row]) -> pa.Table:
    """Rows as a table; what a row has not, and a number that is none, is null."""
    import pyarrow as pa

    columns = [
        pa.array([row.get(field.name) for row in rows], field.type, from_pandas=True)
        for field in schema()
    ]
    return pa.Table.from_arrays(columns, schema=schema())


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a file of rows."""
    import pyarrow.parquet as pq

    pq.write_table(_table(rows), path)


def join_rows(path: Path, parts: Sequence[Path]) -> None:
    """Write the rows of some files to one, in their order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [schema().empty_table(), *(pq.read_table(part, schema=schema()) for part in parts)]
    pq.write_table(pa.concat_tables(tables), path)


def rows_frame(rows: Sequence[Row] = ()) -> pd.DataFrame:
    """Rows as `read_rows` gives them; without any, every column is there, of its type."""
    found: pd.DataFrame = _table(rows).to_pandas()
    return found


def read_rows(
    path: Path, columns: Sequence[str] | None = None, filters: Any = None
) -> pd.DataFrame:
    """The rows of a file.

    Args:
        path: The file.
        columns: Those to read; None for all.
        filters: Which rows, as `pyarrow.parquet.read_table` takes it; None for all.

    Raises:
        ValueError: If it lacks columns: it is of another version.
        OSError: If it cannot be opened.
    """
    import pyarrow.parquet as pq

    names = [one.name for one in COLUMNS] if columns is None else list(columns)
    written = pq.read_schema(path)
    if missing := [name for name in names if name not in written.names]:
        version = (written.metadata or {}).get(b"schema_version", b"an older one").decode()
        raise ValueError(
            f"{path} has no column {', '.join(missing)}: its rows are of schema version {version}, "
            f"this program reads {SCHEMA_VERSION}; run its config again"
        )
    found = pq.read_table(path, columns=names, filters=filters)
    rows: pd.DataFrame = found.to_pandas()
    return rows


def head_rows(path: Path, rows: int, columns: Sequence[str]) -> pd.DataFrame:
    """Some columns of the first rows of a file, of which no more is read."""
    import pandas as pd
    import pyarrow.parquet as pq

    # A batch, not the file: rows may be millions.
    batches = pq.ParquetFile(path).iter_batches(max(rows, 1), columns=list(columns))
    first = next(batches, None)
    values = {} if first is None else first.to_pydict()
    return pd.DataFrame(values, columns=list(columns)).head(rows)
