"""Python's garbage collector, while libraries are imported that stay.

Importing PyTorch and transformers makes a million objects, none of them garbage. The collector
looks through them over and over while they are made, whenever it collects later, and once more when
the process ends: a third of what a short command takes.
"""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Collect nothing inside the block, and what it leaves in memory never.

    For a command's own process: what calls the package as a library decides for itself, and has
    imported them.
    """
    if "transformers" in sys.modules:
        yield
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.freeze)  # with what the command leaves
        if collecting:
            gc.enable()
