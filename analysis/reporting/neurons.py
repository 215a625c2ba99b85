"""Heat maps of attributions: layers by neurons, for every source of every run that located some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from kn_sweeps.records.run_directory import RunDirectory

from ..runs import Run

COLUMNS = 128
"""Most columns of a heat map; neighbours share one where a layer has more neurons."""
CELLS = 200_000
"""Cells all heat maps of a page may have together: about a megabyte."""
RUNS = 60
"""Runs of which one heat map is always there."""
STRONGEST = 10
STEPS = 9999
"""A score is kept as a whole number of 1/STEPS of the largest one."""

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Located:
    """The neurons that a run located, by source.

    Attributes:
        edits: Number of edits of the source that located some.
        counts: In how many of them a neuron, as (layer, index), was.
    """

    edits: int
    counts: dict[tuple[int, int], int]


def heat_maps(runs: Sequence[Run]) -> dict[str, Any]:
    """The heat maps that fit, runs taking turns, so that every run has some.

    Returns:
        `maps`, each with the number of its `run`, its `source` and what `heat_map` gives; and
        how many there would be in `total`.
    """
    sources = {n: _sources(run) for n, run in enumerate(runs) if "neurons_by_layer" in run.summary}
    longest = max(map(len, sources.values()), default=0)
    turns = [(n, own[k]) for k in range(longest) for n, own in sources.items() if k < len(own)]
    located = {n: _located(runs[n]) for n in sources}
    maps: list[dict[str, Any]] = []
    left = CELLS
    for turn, (n, source) in enumerate(turns):
        layers = len(runs[n].summary["neurons_by_layer"])
        # Every run has one, unless there are very many runs.
        if left <= 0 and turn >= min(len(sources), RUNS):
            break
        scores = _mean_scores(runs[n], source)
        if scores is None or scores.size % layers:
            continue
        found = located[n].get(source, Located(0, {}))
        one = heat_map(scores.reshape(layers, -1), found)
        left -= len(one["scores"]) + len(one["located"])
        maps.append({"run": n, "source": source, **one})
    maps.sort(key=lambda one: (one["run"], one["source"]))
    return {"maps": maps, "total": len(turns)}


def heat_map(scores: Scores, located: Located, columns: int = COLUMNS) -> dict[str, Any]:
    """One heat map, small enough for a page.

    Args:
        scores: Mean attribution of every neuron, shape (layers, neurons).
        located: The neurons that edits located there.
        columns: Most columns; neighbours share one, which shows the strongest of them.

    Returns:
        `layers`, `neurons` and `width`, the neurons a column stands for; `peak`, the largest
        absolute score; layer by layer of the columns, `scores` in 1/STEPS of the peak and
        `places`, where in its column the shown neuron is; the `located` neurons as [layer,
        neuron, edits]; the `edits` there were; and the `strongest` as [layer, neuron, score,
        edits].
    """
    layers, neurons = scores.shape
    width = -(-neurons // columns)
    count = -(-neurons // width)
    padded = np.zeros((layers, count * width))
    padded[:, :neurons] = scores
    binned = padded.reshape(layers, count, width)
    places = np.abs(binned).argmax(axis=2)
    shown = np.take_along_axis(binned, places[:, :, None], axis=2)[:, :, 0]
    peak = float(np.abs(scores).max(initial=0.0))
    order = np.argsort(-np.abs(scores), axis=None, kind="stable")[:STRONGEST]
    return {
        "layers": layers,
        "neurons": neurons,
        "width": width,
        "peak": float(f"{peak:.4g}"),
        "scores": np.rint(shown / (peak or 1.0) * STEPS).astype(int).ravel().tolist(),
        "places": places.ravel().tolist(),
        "located": [[*neuron, n] for neuron, n in sorted(located.counts.items())],
        "edits": located.edits,
        "strongest": [
            [
                layer,
                neuron,
                float(f"{scores[layer, neuron]:.4g}"),
                located.counts.get((layer, neuron), 0),
            ]
            for layer, neuron in (divmod(int(flat), neurons) for flat in order)
        ],
    }


def _sources(run: Run) -> list[str]:
    """The sources a run has attributions of."""
    with ExitStack() as stack:
        return sorted({key for file in _opened(run, stack) for key in file.keys()})  # noqa: SIM118


def _mean_scores(run: Run, source: str) -> Scores | None:
    """Mean over all prompts of a source, all shards together; None where there is no prompt."""
    total, prompts = None, 0
    with ExitStack() as stack:
        for file in _opened(run, stack):
            if source not in file.keys():  # noqa: SIM118
                continue
            scores = file.get_tensor(source).astype(np.float64)
            # A prompt whose attribution is not finite says nothing of the others.
            scores = scores[np.isfinite(scores).all(axis=1)]
            total = scores.sum(axis=0) + (0.0 if total is None else total)
            prompts += len(scores)
    return None if total is None or not prompts else total / prompts


def _opened(run: Run, stack: ExitStack) -> Iterator[Any]:
    """The attribution files of a run: one tensor at a time is read, for all can be gigabytes."""
    for directory in run.directories:
        try:
            path = directory.attributions_path
            yield stack.enter_context(safe_open(path, framework="numpy"))
        except (OSError, SafetensorError):
            continue


def _located(run: Run) -> dict[str, Located]:
    found: dict[str, Located] = {}
    for directory in run.directories:
        for one in _located_in(directory):
            before = found.get(one["source"], Located(0, {}))
            counts = dict(before.counts)
            for layer, index in one["neurons"]:
                counts[layer, index] = counts.get((layer, index), 0) + 1
            found[one["source"]] = Located(before.edits + 1, counts)
    return found


def _located_in(directory: RunDirectory) -> list[dict[str, Any]]:
    try:
        return directory.located()
    except (OSError, ValueError):
        return []
