"""What the page and the notebooks print is what they print now."""

from __future__ import annotations

import doctest
import re
import runpy
from pathlib import Path
from typing import Any

import nbformat
import pytest

from kn_sweeps.run import run
from tests.test_config import composed

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "notebook.md"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
REAL = "## A real model"
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@pytest.fixture
def _somewhere_with_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(composed("tracker=none", "dataset=pararel", "method=none", "limit=1", "sweep=SWEEP"))


def _run_as_printed(text: str) -> None:
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    test = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) > 4
    told: list[str] = []
    failed = doctest.DocTestRunner(optionflags=options).run(test, out=told.append).failed
    assert not failed, "".join(told)


@pytest.mark.usefixtures("_somewhere_with_results")
def test_the_page_prints_what_it_says() -> None:
    _run_as_printed(PAGE.read_text(encoding="utf-8").split(REAL)[0])


def test_the_readme_prints_what_it_says() -> None:
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    _run_as_printed(text.split("## From Python")[1].split("## ")[0])


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.usefixtures("_somewhere_with_results")
def test_the_snippet_runs_as_printed_on_a_real_model() -> None:
    _run_as_printed(PAGE.read_text(encoding="utf-8").split(REAL)[1])


def _outputs(notebook: Any) -> list[list[tuple[str, str]]]:
    """By cell, what kinds of output there are, and the text of each."""
    return [
        [
            (", ".join(sorted(output.get("data", {"stream": ""}))), _text(output))
            for output in cell.get("outputs", [])
        ]
        for cell in notebook.cells
    ]


def _text(output: Any) -> str:
    text = output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
    return " ".join(text.split())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_gives_the_outputs_it_was_kept_with(path: Path) -> None:
    kept = nbformat.read(path, as_version=4)
    now = runpy.run_path(str(DOCS / "notebooks" / "run.py"))["executed"](path)
    for before, after in zip(_outputs(kept), _outputs(now), strict=True):
        assert [kind for kind, _ in after] == [kind for kind, _ in before]
        for (_, expected), (_, found) in zip(before, after, strict=True):
            assert NUMBER.sub("#", found) == NUMBER.sub("#", expected)
            # Another machine's rounding changes the last digits that are shown.
            numbers = [[float(n) for n in NUMBER.findall(text)] for text in (found, expected)]
            assert numbers[0] == pytest.approx(numbers[1], rel=0.05, abs=2e-3)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_is_small_and_names_no_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 64_000
    assert not re.search(r"(?<![\w.])/(?:home|root|tmp|usr|Users)/", text)
    assert all(
        cell.get("outputs") or cell.cell_type != "code" or cell.source.startswith("import")
        for cell in nbformat.read(path, as_version=4).cells
    )
