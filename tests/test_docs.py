"""What the docs print can be typed as it stands."""

from __future__ import annotations

import re
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
