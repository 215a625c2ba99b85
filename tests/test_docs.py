"""What the docs print can be typed as it stands; their links lead somewhere."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_an_override_with_brackets_is_quoted_for_zsh_refuses_it_otherwise(page: Path) -> None:
    # Python, which is shown behind its prompt, is no shell.
    text = re.sub(r"(?m)^ *(>>>|\.\.\.) .*$", "", page.read_text(encoding="utf-8"))
    found = re.findall(r"(?<![\w./@'])[\w./@]+=(?:\[|range\(|interval\(|choice\().*", text)
    assert not found


@cache
def anchors(page: Path) -> set[str]:
    """What a repository browser calls the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = (re.sub(r"[`*]", "", title) for title in re.findall(r"^#+ +(.+?) *$", text, re.M))
    found = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    return {f"{name}-{found[:n].count(name)}".removesuffix("-0") for n, name in enumerate(found)}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_a_link_leads_to_a_file_of_the_repository_and_to_a_heading_in_it(page: Path) -> None:
    prose = re.sub(r"^ {4}.*$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.M)
    for path, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)#?([^)\s]*)\)", prose):
        there = page.parent / path if path else page
        assert there.exists(), f"{path} is not there"
        assert ROOT in there.resolve().parents, f"{path} leaves the repository"
        if anchor:
            assert anchor in anchors(there), f"{path} has no heading #{anchor}"
