"""Fetch what runs need into the caches: models, data and second moments.

Submitting to a cluster does it first, whose nodes often have no internet; `kn-sweeps prefetch` does
nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from kn_sweeps.config import RunConfig, build
from kn_sweeps.garbage import importing
from kn_sweeps.models.last_loaded import LastLoaded
from kn_sweeps.models.loading import device
from kn_sweeps.possible import refuse_impossible
from kn_sweeps.progress.interruption import check

_STATISTICS = ("model", "dtype", "method")
log = logging.getLogger(__name__)


def prefetch(configs: Sequence[Mapping[str, Any]], *, statistics: bool = True) -> None:
    """Fetch what some runs need.

    Args:
        configs: Their configs, resolved.
        statistics: Whether what depends on a model and texts is computed too (`compute`).

    Raises:
        ValueError: If something cannot be had, or a model cannot be asked a dataset: every such
            reason, once.
    """
    done: set[str] = set()
    errors: dict[str, None] = {}
    for config in sorted(configs, key=lambda c: json.dumps(c["model"], sort_keys=True)):
        check()
        settings = _built(config)
        try:
            if _first(done, config, "model"):
                log.info("fetching model %s", settings.model.label)
                settings.model.check()
            if _first(done, config, "model", "dataset", "method"):
                described = settings.model.described()
                assert described is not None  # it was fetched
                refuse_impossible(settings, described)
                editable = settings.method.changes
                settings.dataset.load(described.kind, seed=0, limit=1, editable=editable)
                for texts in _texts([settings.method, *settings.measurement.values()]):
                    texts.fetch()
        except ValueError as error:
            errors[str(error)] = None
    if errors:
        raise ValueError("\n".join(errors))
    if statistics:
        compute(configs)


def statistics_of(configs: Sequence[Mapping[str, Any]]) -> list[RunConfig]:
    """One run for everything that some need computed from a model and texts: second moments."""
    done: set[str] = set()
    ordered = sorted(configs, key=lambda c: json.dumps(c["model"], sort_keys=True))
    chosen = [_built(one) for one in ordered if _first(done, one, *_STATISTICS)]
    return [one for one in chosen if _texts([one.method])]


def compute(configs: Sequence[Mapping[str, Any]]) -> None:
    """Compute what some runs need computed from a model and texts, which are here.

    Raises:
        ValueError: If it cannot be.
    """
    load = LastLoaded()
    for one in statistics_of(configs):
        check()
        lm = load(one.model, device(one.device), one.dtype)
        one.method.prepare(lm, one.seed)


def _built(config: Mapping[str, Any]) -> RunConfig:
    """A run's settings, which are made of classes of libraries that take long to import."""
    with importing():
        import kn_sweeps.run  # noqa: F401
    settings: RunConfig = build(config, RunConfig)
    return settings


def _first(done: set[str], config: Mapping[str, Any], *keys: str) -> bool:
    """Whether this is the first config with these values."""
    key = json.dumps([keys, [config[key] for key in keys]], sort_keys=True)
    return not (key in done or done.add(key))  # type: ignore[func-returns-value]


def _texts(nodes: Sequence[Any]) -> list[Any]:
    """What reads texts among methods and measurements, and in what they are made of."""
    found = [node for node in nodes if hasattr(node, "fetch")]
    inside = [node for node in nodes if dataclasses.is_dataclass(node)]
    for node in inside:
        found += _texts([getattr(node, one.name) for one in dataclasses.fields(node)])
    return found
