"""Runs set against each other: pairs of methods on the same cases, and seeds as one run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from kn_sweeps.metrics.catalogue import headlines, quantity
from kn_sweeps.metrics.comparing import (
    Difference,
    blocks,
    detectable,
    difference,
    edited,
    on_cases,
    over_runs,
    sampled,
)
from kn_sweeps.metrics.significance import holm
from kn_sweeps.mistakes import did_you_mean

from .runs import Run
from .summaries import Summary, identity, in_order

ALL_PAIRS = 6
"""Runs on the same data of which a report compares every pair; of more, each with `none`."""


@dataclass(frozen=True)
class Compared:
    """A number of one run minus that of another, on the cases that both could edit.

    Attributes:
        run: The one.
        minus: The other.
        metric: The number's name.
        found: The difference.
        p_holm: Its p-value, corrected for all that were compared with it.
    """

    run: Run
    minus: Run
    metric: str
    found: Difference
    p_holm: float = 1.0

    def columns(self) -> dict[str, Any]:
        """As a row of a file of numbers."""
        named = {key: identity(self.run.summary, key) for key in ("model", "source", "dataset")}
        return {
            **named,
            "intent": identity(self.run.summary, "intent"),
            "method": self.run.label,
            "minus": self.minus.label,
            "metric": self.metric,
            "difference": self.found.estimate.value,
            **{part: getattr(self.found.estimate, part) for part in ("low", "high", "n")},
            "p": self.found.p,
            "p_holm": self.p_holm,
            "mde": self.found.detectable,
        }


def compared_with(
    runs: Sequence[Run], method: str, metrics: Sequence[str] | None = None
) -> list[Compared]:
    """Every run minus the run of one method on the same data.

    Args:
        runs: Finished runs.
        method: The method, or, of several runs of it, the label of one (`rome, layer 3`).
        metrics: Names of numbers; None for the headlines.

    Raises:
        ValueError: If no run is of the method, several on the same data are, or none can be
            compared with it.
    """
    known = dict.fromkeys(name for run in runs for name in (run.method, run.label))
    if method not in known:
        near = did_you_mean(method, known)
        raise ValueError(f"no run of {method!r}{near}; there are {', '.join(known)}")
    pairs: list[tuple[Run, Run]] = []
    for some in _on_same_data(runs):
        references = [run for run in some if method in (run.method, run.label)]
        if len(references) > 1:
            raise ValueError(
                f"{len(references)} runs of {method} on the same data; name one: "
                + ", ".join(repr(run.label) for run in references)
            )
        pairs += [(run, minus) for minus in references for run in some if run is not minus]
    if not (found := _corrected(pairs, metrics)):
        raise ValueError(
            f"nothing can be compared with {method}: it takes another method on the same cases, "
            "with the same intent and seed, and numbers that are made of edits"
        )
    return found


def every_pair(runs: Sequence[Run]) -> list[Compared]:
    """All pairs of runs on the same data; where there are many, each with `none`."""
    pairs: list[tuple[Run, Run]] = []
    for some in _on_same_data(runs):
        if len(some) <= ALL_PAIRS:
            pairs += itertools.combinations(some, 2)
        else:
            controls = [run for run in some if run.method == "none"]
            pairs += [(run, minus) for minus in controls for run in some if run is not minus]
    return _corrected(pairs, None)


def over_seeds(runs: Sequence[Run]) -> list[Summary]:
    """Runs that differ in nothing but their seed as one: `seed` names all of them.

    A number is the mean over seeds, its interval that over seeds and edits, `n` the sum. One that
    is not made of edits has no interval.
    """
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        settings = {k: v for k, v in run.summary["settings"].items() if k != "seed"}
        named = [
            identity(run.summary, c) for c in ("sweep", "model", "source", "dataset", "method")
        ]
        groups.setdefault((*named, *sorted(settings.items())), []).append(run)
    return in_order([_as_one(some) for some in groups.values()])


def with_detectable(runs: Sequence[Run]) -> list[Summary]:
    """Summaries whose estimates have `mde`, the difference that their n can show."""
    found = []
    for run in runs:
        known = sampled(run.metrics, run.results)
        estimates = {
            name: {
                **estimate,
                **(
                    {"mde": detectable(known[name], run.bootstrap, share=quantity(name).is_share)}
                    if name in known
                    else {}
                ),
            }
            for name, estimate in run.summary["metrics"].items()
        }
        found.append({**run.summary, "metrics": estimates})
    return found


def _as_one(runs: Sequence[Run]) -> Summary:
    first = runs[0].summary
    seeds = sorted(int(run.summary["seed"]) for run in runs)
    every = [sampled(run.metrics, run.results) for run in runs]
    shared = [m for m in first["metrics"] if all(m in run.summary["metrics"] for run in runs)]
    estimates = {}
    for name in shared:
        if all(name in one for one in every):
            parts = [one[name] for one in every]
            estimates[name] = asdict(over_runs(parts, runs[0].bootstrap))
        else:
            estimates[name] = _plain_mean([run.summary["metrics"][name] for run in runs])
    cases = dict.fromkeys(str(run.summary["cases"]) for run in runs)
    text = ",".join(map(str, seeds))
    return {
        **first,
        "run_id": " ".join(str(run.summary["run_id"]) for run in runs),
        "seed": text,
        "cases": ",".join(cases),
        "settings": {**first["settings"], "seed": text},
        "metrics": estimates,
    }


def _plain_mean(estimates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [one["value"] for one in estimates if one["value"] is not None]
    value = sum(values) / len(values) if values else None
    return {"value": value, "low": None, "high": None, "n": sum(one["n"] for one in estimates)}


def _on_same_data(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Runs whose cases are the same and whose edits are for the same."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        settings = run.summary["settings"].items()
        data = sorted((k, v) for k, v in settings if k.startswith(("dataset.", "model.", "limit")))
        named = [identity(run.summary, c) for c in ("model", "source", "dataset", "intent", "seed")]
        groups.setdefault((*named, *data), []).append(run)
    yield from groups.values()


def _corrected(pairs: Sequence[tuple[Run, Run]], metrics: Sequence[str] | None) -> list[Compared]:
    """All differences of some pairs, corrected for how many they are."""
    found = [one for run, minus in pairs for one in _differences(run, minus, metrics)]
    adjusted = holm([one.found.p for one in found])
    return [replace(one, p_holm=float(p)) for one, p in zip(found, adjusted, strict=True)]


def _differences(run: Run, minus: Run, metrics: Sequence[str] | None) -> Iterator[Compared]:
    cases = edited(run.results) & edited(minus.results)
    sides = [on_cases(one.results, cases) for one in (run, minus)]
    number = blocks(*sides)
    # Both are scored as the first was.
    one, other = (sampled(run.metrics, side) for side in sides)
    present = [name for name in one if name in other]
    for name in headlines(present) if metrics is None else metrics:
        if name in present:
            share = quantity(name).is_share
            found = difference(one[name], other[name], number, run.bootstrap, share=share)
            yield Compared(run, minus, name, found)
