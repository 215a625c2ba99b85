"""What a run cannot be, told by its model's config before anything starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from kn_sweeps.config import RunConfig
from kn_sweeps.models.checkpoints import Described


def refuse_impossible(settings: RunConfig, described: Described | None) -> None:
    """Refuse a method's layers that the model does not have, and what excludes each other.

    Args:
        settings: The run.
        described: What its model's config tells; None where that is not on this machine, so that
            what `model.layers` says has to do.

    Raises:
        ValueError: If there is one; with the layers there are.
    """
    if settings.regime == "sequential" and "read" in _values(settings.method, "where"):
        raise ValueError(
            "method.where=read has no edits that others can be planned on top of; use "
            "method.where=everywhere, or regime=single"
        )
    layers = settings.model.layers if described is None else described.layers
    for name, layer in _layers_named(settings.method, "method"):
        if layers is not None and not 0 <= layer < layers:
            raise ValueError(
                f"{name}={layer}: model {settings.model.label} has no such layer; choose from 0 "
                f"to {layers - 1}"
            )


def _layers_named(node: Any, at: str) -> Iterator[tuple[str, int]]:
    """The fields `layer` and `layers` of a method, and of what it is made of."""
    for field in dataclasses.fields(node):
        value, name = getattr(node, field.name), f"{at}.{field.name}"
        if dataclasses.is_dataclass(value):
            yield from _layers_named(value, name)
        elif field.name == "layer" and isinstance(value, int):
            yield name, value
        elif field.name == "layers" and isinstance(value, tuple):
            yield from ((name, layer) for layer in value)
        elif field.name == "neurons" and isinstance(value, tuple):
            yield from ((name, layer) for layer, _ in value)


def _values(node: Any, name: str) -> Iterator[Any]:
    """The values of a field, of a method and of what it is made of."""
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from _values(value, name)
        elif field.name == name:
            yield value
