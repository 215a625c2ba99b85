"""Every number that some metric gives, found on the metrics' classes."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from typing import Any, get_args

import kn_sweeps.metrics
from kn_sweeps.metrics.answers import Scorer
from kn_sweeps.metrics.base import Metric
from kn_sweeps.metrics.quantities import Quantity


def described() -> tuple[Quantity, ...]:
    """Every number of every metric: of all modules here, and of classes imported elsewhere.

    Raises:
        ValueError: If two metrics describe different numbers by the same name.
    """
    for module in pkgutil.iter_modules(kn_sweeps.metrics.__path__, "kn_sweeps.metrics."):
        importlib.import_module(module.name)
    families = sorted(_subclasses(Metric), key=lambda one: (one.__module__, one.__name__))
    found: dict[str, Quantity] = {}
    for family in families:
        for one in family.quantities:
            if found.setdefault(one.name, one) != one:
                raise ValueError(f"{family.__name__} calls a number {one.name!r}, as another does")
    return tuple(found.values())


def quantity(name: str) -> Quantity:
    """What a summary's number is; one that no metric describes has its name and no meaning."""
    every = described()
    scored = name.endswith(tuple(f"_{scorer}" for scorer in get_args(Scorer)))

    def order(one: Quantity) -> tuple[bool, bool, int]:
        """Whole names before patterns, those of a scorer before those of a set, long ones first."""
        return "<" in one.name, "<scorer>" not in one.name, -len(one.name)

    # `portability_token` is no set of consequences, and `portability_hops` no scorer.
    for one in sorted((one for one in every if scored or "<scorer>" not in one.name), key=order):
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
