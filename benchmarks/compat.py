"""What each option of `compat=kn_thesis` changes, one at a time, and bfloat16 beside float32.

    python -m benchmarks.compat            # SmolLM2, official P36 and one paradigm
    python -m benchmarks.compat --dtype    # the same search in bfloat16 and in float32

Every line is a run of its own beside the one with our values: the same cases and the same seed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from benchmarks.measuring import official_data, table
from kn_sweeps.commands.launch import split
from kn_sweeps.edits import RankOne
from kn_sweeps.models.last_loaded import LastLoaded
from kn_sweeps.records.places import CONF
from kn_sweeps.records.run_directory import RunDirectory
from kn_sweeps.run import run

KN = ("quadrature=linspace", "site=pre_activation", "refine=published", "where=read")
ROME = (
    *("key_mode=original", "kl_position=subject", "context_lengths=[4,9]"),
    "context_openings=[]",
)
PARADIGMS = (
    *("determiner_noun_agreement_1", "anaphor_number_agreement"),
    "regular_plural_subject_verb_agreement_1",
)
METRICS = "metric=[reliability,generality,locality,probability,localisation]"
Line = dict[str, object]
Found = dict[str, set[tuple[int, int]]]


class Runs:
    """Runs of one sweep, one model in memory."""

    def __init__(self, model: str, results: str) -> None:
        """Remember what all of them share."""
        self._common = [f"model={model}", "tracker=none", METRICS, f"results_dir={results}"]
        self._load = LastLoaded()

    def __call__(self, *overrides: str) -> tuple[RunDirectory, dict[str, Any], float]:
        """Do a run; its directory, its metrics, and the seconds it took."""
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose("config", overrides=[*self._common, *overrides])
        container = OmegaConf.to_container(composed, resolve=True)
        config = split(cast(dict[str, Any], container))[1]
        start = time.perf_counter()
        outcome = run(config, self._load)
        return RunDirectory(outcome.directory), outcome.summary["metrics"], _since(start)


def _since(start: float) -> float:
    return time.perf_counter() - start


def neurons(directory: RunDirectory) -> Found:
    """The neurons of each edit."""
    return {one["edit"]: {(a, b) for a, b in one["neurons"]} for one in directory.located()}


def overlap(ours: Found, theirs: Found) -> float:
    """Mean Jaccard index of the same edits' neurons; two empty sets are equal."""
    both = [(ours[edit], theirs[edit]) for edit in ours.keys() & theirs.keys()]
    return sum(len(a & b) / len(a | b) if a | b else 1.0 for a, b in both) / len(both)


def distance(ours: RunDirectory, theirs: RunDirectory) -> float:
    """Mean |W'_theirs - W'_ours| / |W'_ours - W| of the same rank-one edits (Frobenius norms)."""
    mine, other = ours.edits(), theirs.edits()
    found = []
    for name in mine.keys() & other.keys():
        a, b = mine[name], other[name]
        if isinstance(a, RankOne) and isinstance(b, RankOne):
            found.append(float((_dense(a) - _dense(b)).norm() / _dense(a).norm()))
    return sum(found) / len(found)


def _dense(edit: RankOne) -> torch.Tensor:
    return torch.outer(edit.v.double(), edit.u.double())


def of_kn(runs: Runs, cases: Sequence[str]) -> Iterator[Line]:
    """Neurons and metrics of knowledge neurons under each option."""
    ours, metrics, _ = runs("method=kn", *cases)
    yield _kn_row("ours", ours, ours, metrics)
    for option in KN:
        there, metrics, _ = runs("method=kn", *cases, f"method.{option}")
        yield _kn_row(option, ours, there, metrics)
    there, metrics, _ = runs("method=kn", *cases, "compat=kn_thesis")
    yield _kn_row("compat=kn_thesis", ours, there, metrics)


def _kn_row(name: str, ours: RunDirectory, there: RunDirectory, metrics: dict[str, Any]) -> Line:
    found = neurons(there)
    return {
        "option": name,
        "edits": len(found),
        "neurons an edit": sum(map(len, found.values())) / len(found),
        "Jaccard with ours": overlap(neurons(ours), found),
        **_values(metrics, "probability_change", "r_squared"),
    }


def of_rome(runs: Runs, cases: Sequence[str]) -> Iterator[Line]:
    """Updates and metrics of ROME under each option."""
    base = ("method=rome", *cases)
    ours, metrics, _ = runs(*base)
    yield _rome_row("ours", ours, ours, metrics)
    for option in (*(f"method.{one}" for one in ROME), "compat=kn_thesis"):
        there, metrics, _ = runs(*base, option)
        yield _rome_row(option.removeprefix("method."), ours, there, metrics)


def _rome_row(name: str, ours: RunDirectory, there: RunDirectory, metrics: dict[str, Any]) -> Line:
    return {
        "option": name,
        "update differs by": distance(ours, there),
        **_values(metrics, "reliability", "generality", "locality"),
    }


def of_dtype(runs: Runs, cases: Sequence[str]) -> Iterator[Line]:
    """Seconds, certificates and neurons of the search in each precision."""
    base = ("method=kn", "attribution_cache_gib=0", *cases)
    ours: RunDirectory | None = None
    for dtype in ("float32", "bfloat16"):
        there, metrics, seconds = runs(*base, f"dtype={dtype}")
        ours = ours or there
        yield {"dtype": dtype, "seconds": seconds} | _kn_row(dtype, ours, there, metrics)


def _values(metrics: dict[str, Any], *names: str) -> Line:
    return {name: metrics[name]["value"] for name in names if name in metrics}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--data", help="folder with blimp/ and pararel/; or KN_SWEEPS_DATA")
    parser.add_argument("--limit", type=int, default=10, help="cases")
    parser.add_argument("--results", default="results/benchmarks")
    parser.add_argument("--dtype", action="store_true", help="bfloat16 beside float32")
    chosen = parser.parse_args()
    runs = Runs(chosen.model, chosen.results)
    syntax = [
        "dataset=blimp",
        f"dataset.root={official_data(chosen.data, 'blimp')}",
        f"dataset.paradigms=[{','.join(PARADIGMS)}]",
        f"limit={chosen.limit}",
    ]
    facts = [
        *("dataset=pararel", f"dataset.root={official_data(chosen.data, 'pararel')}"),
        *("dataset.relations=[P36]", f"limit={chosen.limit}"),
    ]
    if chosen.dtype:
        print(table(list(of_dtype(runs, syntax))))
        return
    print(table(list(of_kn(runs, syntax))))
    print(table(list(of_rome(runs, facts))))


if __name__ == "__main__":
    main()
