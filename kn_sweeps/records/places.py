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


def find_in_checkout() -> None:
    """Let `analysis` and `hydra_plugins` be found beside the package, whatever was called.

    Scripts and `python -m` in the checkout find them; `kn-sweeps` of an editable install would not.
    """
    if CHECKOUT is not None and str(CHECKOUT) not in sys.path:
        sys.path.insert(0, str(CHECKOUT))


def analysis(name: str) -> ModuleType:
    """A module of `analysis/`, which an installed package has as `kn_sweeps.analysis`."""
    find_in_checkout()
    package = "kn_sweeps.analysis" if CHECKOUT is None else "analysis"
    return importlib.import_module(f"{package}.{name}")
