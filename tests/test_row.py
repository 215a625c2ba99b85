"""Rows have one schema: an empty table and a failed case have it, and older files are refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kn_sweeps import row as module
from kn_sweeps.row import (
    COLUMNS,
    SCHEMA_VERSION,
    Reading,
    Row,
    Target,
    When,
    join_rows,
    read_rows,
    reading,
    rows_frame,
    schema,
    write_rows,
)

FAILED: Row = {
    **{
        "case": "c1",
        "edit": "c1",
        "together": "",
        "source": "P1",
        "task": "fact",
        "intent": "erase",
    },
    **{
        "after": "edit",
        "made": 0,
        "step": 3,
        "probe": 0,
        "kind": "failed",
        "failure": "no such layer",
    },
}  # type: ignore[typeddict-item]


def _scored() -> Row:
    values = {"text": "x", "integer": 2, "number": -0.1, "yes or no": True}
    values["list of texts"] = ["y"]
    row = {one.name: values.get(one.type, [4, 5]) for one in COLUMNS}
    return row | {"kind": "edit", "failure": "", "kl": float("nan")}  # type: ignore[return-value]


def test_an_empty_table_has_every_column_with_the_type_of_a_full_one(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", [])
    for empty in (rows_frame(), read_rows(tmp_path / "rows")):
        pd.testing.assert_series_equal(empty.dtypes, rows_frame([_scored()]).dtypes)


def test_rows_come_back_as_they_were_and_a_failed_case_is_null_where_nothing_was_asked(
    tmp_path: Path,
) -> None:
    write_rows(tmp_path / "0", [FAILED])
    write_rows(tmp_path / "1", [_scored()])
    join_rows(tmp_path / "rows", [tmp_path / "0", tmp_path / "1"])
    found = read_rows(tmp_path / "rows")
    pd.testing.assert_frame_equal(found, rows_frame([FAILED, _scored()]))
    failed, scored = (row for _, row in found.iterrows())
    required = {one.name for one in COLUMNS if one.required}
    assert {name for name, value in failed.items() if value is not None} >= required
    assert failed.drop(list(required)).isna().all()
    assert (scored["pre_margin"], list(scored["old_ids"]), scored["step"]) == (-0.1, [4, 5], 2)
    assert pd.isna(scored["kl"])


def test_a_failed_case_lacks_nothing_that_is_required() -> None:
    assert set(FAILED) == {one.name for one in COLUMNS if one.required}


def test_every_reading_has_its_column() -> None:
    names = {
        reading(when, what, target)
        for when in get_args(When)
        for what in get_args(Reading)
        for target in get_args(Target)
    }
    assert names <= {one.name for one in COLUMNS}


def test_a_file_says_what_its_columns_mean(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", [_scored()])
    written = pq.read_schema(tmp_path / "rows")
    assert written.equals(schema())
    assert written.metadata[b"schema_version"] == str(SCHEMA_VERSION).encode()
    assert written.field("kl").metadata[b"unit"] == b"nats"
    assert all(field.metadata[b"meaning"] for field in written)


def test_rows_of_another_version_are_refused_with_both(tmp_path: Path) -> None:
    older = pa.table({"case": ["c"]}).replace_schema_metadata({"schema_version": "4"})
    pq.write_table(older, tmp_path / "rows")
    with pytest.raises(ValueError, match="no column edit, .*of schema version 4, .*reads .*; run"):
        read_rows(tmp_path / "rows")


def test_naming_columns_loads_no_library_of_tables() -> None:
    code = (
        f"import {module.__name__}, sys; "
        "print([m for m in ('torch', 'pandas', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_documented_columns_are_those_there_are() -> None:
    page = (Path(__file__).parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
    lines = ["| column | type | unit | meaning |", "| --- | --- | --- | --- |"]
    for one in COLUMNS:
        always = ", *always*" if one.required else ""
        lines.append(f"| `{one.name}` | {one.type}{always} | {one.unit} | {one.meaning} |")
    expected = "\n".join(lines)
    (found,) = re.findall(r"<!-- columns -->\n(.*?)\n?<!-- end -->", page, flags=re.DOTALL)
    assert found == expected, f"docs/results.md should have\n{expected}"
