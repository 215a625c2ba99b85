"""Every number that some metric gives, found on the metrics' classes."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from typing import Any

import kn_sweeps.metrics
from kn_sweeps.metrics.base import Metric
from kn_sweeps.metrics.quantities import Quantity


def described() -> tuple[Quantity, ...]:
    """Every number of every metric: of all modules here, and of classes imported elsewhere."""
    for module in pkgutil.iter_modules(kn_sweeps.metrics.__path__, "kn_sweeps.metrics."):
        importlib.import_module(module.name)
    families = sorted(_subclasses(Metric), key=lambda one: (one.__module__, one.__name__))
    found = (quantity for family in families for quantity in family.quantities)
    return tuple({quantity.name: quantity for quantity in found}.values())


def quantity(name: str) -> Quantity:
    """What a summary's number is; one that no metric describes has its name and no meaning."""
    every = described()
    # A whole name comes before a pattern: `locality_kl` is no set of neighbours; a long one before
    # a short one: `symmetry_gated_token` is no scorer of `symmetry`.
    for one in sorted(every, key=lambda one: ("<" in one.name, -len(one.name))):
        if (found := one.named(name)) is not None:
            return found
    return Quantity(name=name, meaning="", unit="", counts="")


def headlines(names: Iterable[str]) -> list[str]:
    """Those of some numbers that are headlines, in their order."""
    return [name for name in names if quantity(name).headline]


def _subclasses(cls: Any) -> Iterator[type[Metric]]:
    """All of them; `Any`, because an abstract class is no `type[Metric]` to a type checker."""
    for one in cls.__subclasses__():
        yield one
        yield from _subclasses(one)
