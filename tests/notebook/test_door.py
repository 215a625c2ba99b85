"""`import kn_sweeps`: what there is, and that it costs nothing until it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import kn_sweeps as kn

HEAVY = ("torch", "transformers", "pandas", "numpy", "hydra", "matplotlib", "pyarrow", "wandb")


def test_importing_the_package_imports_nothing_of_weight() -> None:
    code = f"import sys, kn_sweeps; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_export_is_there_for_completion_and_for_type_checkers() -> None:
    tree = ast.parse(Path(kn.__file__).read_text(encoding="utf-8"))
    (block,) = (
        node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node)
    )
    typed = {
        alias.name: f"{node.module}".removeprefix("kn_sweeps.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == kn._FROM
    assert sorted(typed) == kn.__all__
    assert set(kn.__all__) <= set(dir(kn))
    for name in kn.__all__:
        assert getattr(kn, name).__doc__


def test_no_export_has_the_name_of_a_module_which_would_hide_it_once_imported() -> None:
    assert [name for name in kn.__all__ if find_spec(f"kn_sweeps.{name}")] == []


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        _ = kn.lode
