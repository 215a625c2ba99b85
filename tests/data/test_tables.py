"""Tables people bring are read as they are; what is wrong with one is told with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kn_sweeps.data.tables import read_table

ROWS = [{"prompt": "It is", "new": "NA"}, {"prompt": "In ü, 1998 is", "new": "3.10"}]


def written(folder: Path, ending: str, ends: str = "\n", mark: bytes = b"") -> Path:
    path = folder / f"table{ending}"
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
        return path
    if ending in (".csv", ".tsv"):
        lines = [["prompt", "new"], *([f'"{cell}"' for cell in row.values()] for row in ROWS)]
        text = "".join((("," if ending == ".csv" else "\t").join(one)) + ends for one in lines)
    elif ending == ".jsonl":
        text = "".join(json.dumps(row) + ends for row in ROWS)
    else:
        text = json.dumps(ROWS, indent=1).replace("\n", ends)
    path.write_bytes(mark + text.encode())
    return path


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize(("ends", "mark"), [("\n", b""), ("\r\n", b"\xef\xbb\xbf"), ("\r", b"")])
def test_every_kind_of_table_gives_the_same_texts(
    tmp_path: Path, ending: str, ends: str, mark: bytes
) -> None:
    table = read_table(written(tmp_path, ending, ends, mark))
    assert [dict(entry.values) for entry in table.entries] == ROWS


def test_numbers_stay_as_they_are_written_and_semicolons_may_separate(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"new": 1998, "old": 3.10, "pair": [1e3, null]}]')
    (entry,) = read_table(tmp_path / "a.json").entries
    assert entry.values == {"new": "1998", "old": "3.10", "pair": ["1e3", None]}
    (tmp_path / "a.csv").write_text("prompt;new\nIt is;007\n\n")
    (entry,) = read_table(tmp_path / "a.csv").entries
    assert entry.values == {"prompt": "It is", "new": "007"}


def test_one_object_a_line_may_be_called_json_and_a_list_may_have_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"new": "x"}\n{"new": "y"}\n')
    assert [e.where for e in read_table(tmp_path / "a.json").entries] == ["line 1", "line 2"]
    (tmp_path / "b.json").write_text('{"version": "1", "data": [{"new": "x"}]}')
    assert read_table(tmp_path / "b.json").entries[0].values == {"new": "x"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"x", "cannot tell what kind of table it is; name it .csv, .tsv"),
        ("a.csv", b"prompt,new\n", "has no rows"),
        ("a.csv", b"prompt,new\nIt is, so,x\n", r"row 1 \(line 2\): 3 cells under 2 columns"),
        ("a.csv", b"prompt,new\nIt is\n", r"row 1 \(line 2\): 1 cells under 2 columns"),
        ("a.csv", b"new,new\nx,y\n", "two columns are called 'new'"),
        ("a.csv", b'prompt,new\n"It is,x\n', "line 2: unexpected end of data"),
        ("a.csv", b"prompt,new\nIt is,Caf\xe9\n", r"line 2: b'\\xe9' is no UTF-8; save"),
        ("a.json", b'[{"new": "x"},\n {"new": }]', "line 2: not JSON"),
        ("a.json", b'"x"', "expected a list of objects, got 'x'"),
        ("a.json", b'["x"]', "row 1: expected an object, got 'x'"),
        ("a.json", b'[{"new": "x", "new": "y"}]', "the key 'new' stands twice"),
        ("a.jsonl", b'{"new": "x"}\n{"new"\n', "line 2: not JSON"),
        ("a.parquet", b"PAR1", "is no Parquet file that can be read"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_table(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_a_file_that_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "facts.csv").touch()
    with pytest.raises(ValueError, match=r"no file .*fact.csv \(did you mean facts.csv\?\)"):
        read_table(tmp_path / "fact.csv")
