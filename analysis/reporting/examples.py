"""The example browser: some cases, and what every run said of them before and after."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd

from kn_sweeps.cases import RESIDUE, REVERSED, Intent, ProbeKind
from kn_sweeps.metrics.answers import succeeded
from kn_sweeps.metrics.locality import unchanged

from ..runs import Run

CASES = 200
"""Most cases of a page."""
READINGS = 30_000
"""Most readings (a probe under a run) of a page: about two megabytes."""
RUNS = 60
"""Most runs of a page whose readings are shown."""
ORDER = get_args(ProbeKind)
PROBE = ("kind", "group", "prefix", "suffix", "subject", "old", "new")
ROW = (
    *("case", "source", "task", "intent", "after", "failure", "probe", *PROBE),
    *("pre_answer", "pre_margin", "pre_log_prob_old", "pre_log_prob_new"),
    *("pre_exact_old", "pre_exact_new"),
    *("post_answer", "post_margin", "post_log_prob_old", "post_log_prob_new"),
    *("post_exact_old", "post_exact_new"),
    *("pre_generated", "post_generated"),
)
"""What is read of a row."""

Key = tuple[str, str, str]
"""Dataset, data source and case id: what a case is called in every run that has it."""


def examples(runs: Sequence[Run]) -> dict[str, Any]:
    """Cases chosen evenly over relations and paradigms, with every run that has them.

    Returns:
        `cases`, each with its `probes` and its `runs`; a run's `readings` stand in the order of
        the probes, null where it was not asked. A reading is [log P(old), log P(new)] before,
        the two after, the two after all edits of a sequence (null where it is none), the
        greedy answers at the three times, whether the edit did there what it should (null where
        nothing is asked of it), and the free answers at the three times (null where none were
        asked for). `total` says how many cases there are, `runs` how many runs
        are looked at, `of` how many there are.
    """
    looked_at = [
        int(n) for n in np.unique(np.linspace(0, len(runs) - 1, min(len(runs), RUNS)).round())
    ]
    known = {n: _cases_of(runs[n]) for n in looked_at}
    sources: dict[tuple[str, str, str], dict[Key, int]] = {}
    for n, cases in known.items():
        for case, (source, probes) in cases.items():
            key = (*runs[n].data, case)
            group = sources.setdefault((*runs[n].data, source), {})
            group[key] = group.get(key, 0) + probes
    chosen = _chosen(sources)
    shown: dict[Key, dict[str, Any]] = {
        key: {"id": key[2], "dataset": key[0], "probes": [], "runs": []} for key in chosen
    }
    for n in looked_at:
        wanted = {key[2]: shown[key] for key in shown if key[:2] == runs[n].data}
        _add(n, runs[n], {case: one for case, one in wanted.items() if case in known[n]})
    return {
        "cases": [_in_order(one) for one in shown.values()],
        "total": sum(map(len, sources.values())),
        "runs": len(looked_at),
        "of": len(runs),
    }


def _cases_of(run: Run) -> dict[str, tuple[str, int]]:
    """By case, its source and how many rows it has."""
    found: dict[str, tuple[str, int]] = {}
    for rows in _read(run, columns=["case", "source"]):
        source = dict(zip(rows["case"], rows["source"], strict=True))
        counts = Counter(rows["case"])
        found |= {case: (source[case], n) for case, n in counts.items()}
    return found


def _chosen(sources: dict[tuple[str, str, str], dict[Key, int]]) -> list[Key]:
    """Cases of all sources in turn, while there is room for their readings."""
    queues = [list(cases.items()) for _, cases in sorted(sources.items())]
    chosen: list[Key] = []
    left = READINGS
    for k in range(max(map(len, queues), default=0)):
        for queue in queues:
            if k >= len(queue):
                continue
            key, readings = queue[k]
            # One case is always shown, however many runs have it.
            if len(chosen) < CASES and (readings <= left or not chosen):
                chosen.append(key)
                left -= readings
    return sorted(chosen)


def _add(n: int, run: Run, cases: dict[str, dict[str, Any]]) -> None:
    """Add what a run says of some cases to them."""
    if not cases:
        return
    for rows in _read(run, columns=list(ROW), filters=[("case", "in", list(cases))]):
        rows = rows.assign(verdict=verdicts(rows))
        for case, own in rows.groupby("case", sort=False):
            _add_rows(n, cases[str(case)], own)


def _add_rows(n: int, case: dict[str, Any], rows: pd.DataFrame) -> None:
    first = rows.iloc[0]
    case |= {"source": first["source"], "task": first["task"]}
    reasons = rows.loc[rows["kind"] == "failed", "failure"]
    if len(reasons):
        case["runs"].append({"run": n, "failure": str(reasons.iloc[0]), "readings": []})
        return
    probes, readings = case["probes"], {}
    after_all = rows[rows["after"] == "all"].set_index("probe")
    for row in rows[rows["after"] == "edit"].to_dict("records"):
        probe = {name: _text(row[name]) for name in PROBE}
        if probe not in probes:
            probes.append(probe)
        later = after_all.loc[row["probe"]] if row["probe"] in after_all.index else None
        readings[probes.index(probe)] = _reading(row, later)
    case["runs"].append({"run": n, "failure": "", "readings": readings})


def _reading(row: Any, later: Any) -> list[Any]:
    verdict = None if math.isnan(row["verdict"]) else bool(row["verdict"] == 1)
    return [
        *(_number(row["pre_log_prob_old"]), _number(row["pre_log_prob_new"])),
        *(_number(row["post_log_prob_old"]), _number(row["post_log_prob_new"])),
        None if later is None else _number(later["post_log_prob_old"]),
        None if later is None else _number(later["post_log_prob_new"]),
        *(_text(row["pre_answer"]), _text(row["post_answer"])),
        None if later is None else _text(later["post_answer"]),
        verdict,
        *(_free(row["pre_generated"]), _free(row["post_generated"])),
        None if later is None else _free(later["post_generated"]),
    ]


def verdicts(rows: pd.DataFrame) -> pd.Series[float]:
    """Whether the edit did what it should on each row: 1, 0, or NaN where nothing is asked of it.

    The rules are those of reliability, generality, locality, symmetry, synonymy and portability, a
    fact scored by its exact answer.
    """
    verdict = pd.Series(np.nan, index=rows.index)
    for intent, own in rows.groupby("intent"):
        kind: Intent = "erase" if intent == "erase" else "replace"
        direction = RESIDUE if kind == "erase" else REVERSED
        asked = own[
            own["kind"].isin(["edit", "rephrase", "synonym", "portability"])
            | ((own["kind"] == "reversal") & (own["group"] == direction))
        ]
        if len(asked):
            verdict[asked.index] = succeeded(asked, kind, "exact")
    neighbours = rows[rows["kind"] == "neighbour"]
    if len(neighbours):
        verdict[neighbours.index] = unchanged(neighbours).astype(float)
    return verdict


def _in_order(case: dict[str, Any]) -> dict[str, Any]:
    """Probes by kind; every run's readings as a list in their order."""
    probes = case["probes"]
    order = sorted(range(len(probes)), key=lambda k: ORDER.index(probes[k]["kind"]))
    runs = [
        {**one, "readings": [one["readings"].get(k) for k in order] if one["readings"] else []}
        for one in case["runs"]
    ]
    return {**case, "probes": [probes[k] for k in order], "runs": runs}


def _read(run: Run, **options: Any) -> list[pd.DataFrame]:
    """The rows of a run, a table a shard; a file that cannot be read hides no other."""
    found = []
    for directory in run.directories:
        try:
            found.append(directory.rows(**options))
        except (OSError, ValueError):
            continue
    return found


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _free(value: object) -> str | None:
    return value if isinstance(value, str) else None
