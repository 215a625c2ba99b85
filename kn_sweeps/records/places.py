"""Where the project's own folders are: inside an installed package, beside it in a checkout."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "launch.py").is_file() else None
"""The folder of `launch.py`, `conf/` and `analysis/`; None of a package that was installed."""

CONF = PACKAGE / "conf" if CHECKOUT is None else CHECKOUT / "conf"
"""The configs that ship with it."""


def analysis(name: str) -> ModuleType:
    """A module of `analysis/`, which an installed package has as `kn_sweeps.analysis`."""
    if CHECKOUT is None:
        return importlib.import_module(f"kn_sweeps.analysis.{name}")
    if str(CHECKOUT) not in sys.path:  # it is where a script lies, or `python -m` was called
        sys.path.insert(0, str(CHECKOUT))
    return importlib.import_module(f"analysis.{name}")
