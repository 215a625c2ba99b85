"""Which runs were asked for: each validated, with models and data pinned, under its id."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from kn_sweeps.config import Pinned, RunConfig, build, pinned, run_id, without_models
from kn_sweeps.models.checkpoints import Described
from kn_sweeps.models.loading import Model
from kn_sweeps.possible import refuse_impossible
from kn_sweeps.records.hub import UnreachableError
from kn_sweeps.records.run_directory import RunDirectory
from kn_sweeps.sweeps.record import PlannedRun

_SHOWN_ERRORS = 10
T = TypeVar("T")

log = logging.getLogger(__name__)


def named_runs(
    composed: Sequence[tuple[str, Mapping[str, Any]]], shards: int, sweep: Path, *, dry_run: bool
) -> list[PlannedRun]:
    """Every run with its id.

    What takes no model library is checked first, and of a finished run nothing else: its method
    was checked when it was done.

    Args:
        composed: Overrides, and the config they compose to, of every run.
        shards: How many each is split into.
        sweep: The directory of all of them.
        dry_run: Whether a hub that cannot be asked is a warning.

    Raises:
        ValueError: If a run cannot be; every reason once.
    """
    model_of: dict[str, tuple[Mapping[str, Any], str]] = {}
    described_of: dict[str, Described | None] = {}
    data_of: dict[str, tuple[Mapping[str, Any], str]] = {}
    runs: list[PlannedRun] = []
    errors = _Errors(len(composed))
    for name, whole in composed:
        with errors.of(name):
            for suffix, config in _shards(whole, shards):
                light = without_models(config)
                named = partial(_named, config["model"], light.model, dry_run=dry_run)
                node, model = _once(model_of, config["model"], named)
                named = partial(_named, config["dataset"], light.dataset, dry_run=dry_run)
                data_node, data = _once(data_of, config["dataset"], named)
                config = {**config, "model": node, "dataset": data_node}
                identity = run_id(config, model, data)
                runs.append(PlannedRun(identity, f"{name}{suffix}".strip(), config))
    errors.complain()
    for run in runs:
        if run.config["rerun"] or not RunDirectory(sweep / run.id).done():
            with errors.of(run.name):
                settings: RunConfig = build(run.config, RunConfig)
                described = partial(_described, settings.model, dry_run=dry_run)
                refuse_impossible(settings, _once(described_of, run.config["model"], described))
    errors.complain()
    return runs


def _named(
    node: Mapping[str, Any], made: Pinned, *, dry_run: bool
) -> tuple[Mapping[str, Any], str]:
    """The node that names a model or data set for good, and which weights or files those are."""
    try:
        node, made = pinned(node, made)
    except UnreachableError as error:
        if not dry_run:
            raise
        log.warning("%s: ids of its runs are not final", error)
        return node, "unknown"
    return node, made.fingerprint()


def _described(model: Model, *, dry_run: bool) -> Described | None:
    try:
        return model.described()
    except UnreachableError:
        if not dry_run:
            raise
        return None


class _Errors:
    """What is wrong with some of the runs that were asked for."""

    def __init__(self, asked: int) -> None:
        self._asked, self._found = asked, list[str]()

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Note what is wrong with one."""
        try:
            yield
        except ValueError as error:
            self._found.append(f"{name}: {error}" if name and self._asked > 1 else str(error))

    def complain(self) -> None:
        """Raise ValueError if anything is."""
        if not self._found:
            return
        if self._asked == 1:
            raise ValueError(self._found[0])
        more = len(self._found) - _SHOWN_ERRORS
        raise ValueError(
            f"{len(self._found)} of {self._asked} runs cannot be; none was launched:\n  "
            + "\n  ".join(dict.fromkeys(self._found[:_SHOWN_ERRORS]))
            + (f"\n  and {more} more" if more > 0 else "")
        )


def _shards(config: Mapping[str, Any], count: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if count == 1:
        yield "", config
        return
    if config["shard"] != "0/1":
        raise ValueError(f"shards={count} makes the shards; leave shard={config['shard']} out")
    if config["regime"] != "single":
        raise ValueError(
            f"shards={count} splits edits that do not touch one another; with "
            f"regime={config['regime']} they do"
        )
    for index in range(count):
        shard = f"{index}/{count}"
        yield f" shard={shard}", {**config, "shard": shard}


def _once(known: dict[str, T], node: Any, ask: Callable[[], T]) -> T:
    """What `ask` says, asked once for equal nodes of the config."""
    key = json.dumps(node, sort_keys=True)
    if key not in known:
        known[key] = ask()
    return known[key]
