"""What stays is not looked through for garbage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import gc, sys
from kn_sweeps.garbage import importing
{before}
frozen = gc.get_freeze_count()
with importing():
    inside, made = gc.isenabled(), [[] for _ in range(1000)]
later = gc.get_freeze_count()
print(inside, gc.isenabled(), later >= frozen + 1000)
"""


def _said(before: str = "") -> str:
    command = [sys.executable, "-c", CODE.format(before=before)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_nothing_is_collected_while_libraries_are_imported_and_they_are_passed_over_then() -> None:
    assert _said() == "False True True\n"


def test_one_who_collects_nothing_is_left_so() -> None:
    assert _said("gc.disable()") == "False False True\n"


def test_where_the_libraries_are_there_already_nothing_changes() -> None:
    assert _said("sys.modules['transformers'] = sys") == "True True False\n"
