"""What bfloat16 and float16 do to every number, beside float32 in the same run.

    python -m benchmarks.precision smollm2_135m --facts 3
    python -m benchmarks.precision smollm2_135m --facts 1 --parts attribution,rome --contexts 1

Bundled facts are attributed, traced, edited by ROME and asked, by the same model in both dtypes, on
the CPU. Contexts, noise and cases are the same; the table has how far apart results are, and the
ratio of the times.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from benchmarks.attribution import jaccard
from benchmarks.measuring import Result, configured_model, say, table, timed
from benchmarks.memory import some_cases
from kn_sweeps.attribution.causal_tracing import Trace, subject_spread, trace
from kn_sweeps.attribution.integrated_gradients import Attribution, integrated_gradients
from kn_sweeps.cases import Case, edit_probe
from kn_sweeps.editing.contexts import sampled_contexts
from kn_sweeps.editing.values import Value, optimised
from kn_sweeps.edits import Edit
from kn_sweeps.evaluation.evaluate import evaluate
from kn_sweeps.methods.none import NoEdit
from kn_sweeps.methods.rome import Rome
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.plans import Plan
from kn_sweeps.row import Row

NOISE, SAMPLES = 3.0, 1
PARTS = ("attribution", "tracing", "rome")


@dataclass(frozen=True)
class Found:
    """What one dtype gives, and the seconds it took.

    Attributes:
        attributions: Of every fact's answer.
        traces: Of every fact.
        values: ROME's, by case.
        rows: Of the edited model.
        seconds: By what was done.
    """

    attributions: list[Attribution]
    traces: list[Trace]
    values: dict[str, Value]
    rows: list[Row]
    seconds: dict[str, float]


def found(
    lm: LanguageModel,
    cases: Sequence[Case],
    method: Rome,
    contexts: Sequence[str],
    noise: float,
    parts: Collection[str] = PARTS,
) -> Found:
    """Do some parts once in a model's dtype."""
    prompts = [lm.encode(edit_probe(case).query, edit_probe(case).old) for case in cases]
    evaluate(lm, cases[:1], NoEdit().plan(lm, cases[:1]), "replace")  # what loads, loads now
    got = Found([], [], {}, [], {})

    def take(name: str, what: Callable[[], Result]) -> Result:
        result, got.seconds[name] = timed(what, lm.device)
        say(f"{lm.model.dtype}: {name} {got.seconds[name]:.1f} s")
        return result

    if "attribution" in parts:
        got.attributions.extend(take("attribution", partial(integrated_gradients, lm, prompts)))
    if "tracing" in parts:
        one = partial(trace, lm, prompts[0], noise=noise, seed=0, samples=SAMPLES)
        got.traces.append(take("tracing", one))
    if "rome" in parts:
        values, _ = take("rome", partial(optimised, lm, cases, contexts, method.objective()))
        got.values.update(values)
        judge = partial(evaluate, lm, cases, _plan(method, values), "replace")
        got.rows.extend(take("evaluation", judge))
    return got


def _plan(method: Rome, values: dict[str, Value]) -> Plan:
    edits: dict[str, Edit] = {case: method.update(value) for case, value in values.items()}
    return Plan(edits, {case: case for case in edits})


def compared(one: Found, wide: Found) -> dict[str, float]:
    """How far a dtype's results are from those of float32."""
    numbers: dict[str, float] = {}
    if one.attributions:
        numbers |= _of_attributions(one.attributions, wide.attributions)
    if one.traces:
        pairs = [
            (a.effects[what], b.effects[what])
            for a, b in zip(one.traces, wide.traces, strict=True)
            for what in a.effects
        ]
        numbers["tracing: effects, largest error"] = max(
            float((a - b).abs().max()) for a, b in pairs
        )
        numbers["tracing: largest effect in float32"] = max(float(b.abs().max()) for _, b in pairs)
    if one.values:
        numbers |= _of_edits(one, wide)
    ratios = {what: one.seconds[what] / wide.seconds[what] for what in one.seconds}
    return numbers | {f"{what}: seconds, ratio": ratio for what, ratio in ratios.items()}


def _of_attributions(
    ours: Sequence[Attribution], theirs: Sequence[Attribution]
) -> dict[str, float]:
    pairs = list(zip(ours, theirs, strict=True))
    shared = [jaccard(a.scores, b.scores) for a, b in pairs]
    return {
        "coarse sets, least Jaccard": min(shared),
        "coarse sets, mean Jaccard": statistics.mean(shared),
        "scores, largest relative error": max(
            float((a.scores - b.scores).norm() / b.scores.norm()) for a, b in pairs
        ),
        "P(answer), largest relative error": max(abs(a.value / b.value - 1) for a, b in pairs),
        "completeness residual, relative, median of layers": _residual(ours),
        "the same in float32": _residual(theirs),
        "layers certified, share": _certified(ours),
        "the same of float32": _certified(theirs),
    }


def _of_edits(one: Found, wide: Found) -> dict[str, float]:
    answers = list(zip(one.rows, wide.rows, strict=True))

    def share(kind: str, expected: Literal["new", "pre_answer"]) -> tuple[float, float]:
        """How many answers are what a column says, here and in float32."""
        both = ([row for row in f.rows if row["kind"] == kind] for f in (one, wide))
        here, there = ([row["post_answer"] == row[expected] for row in rows] for rows in both)
        return _share(here), _share(there)

    new, new_wide = share("edit", "new")
    near, near_wide = share("neighbour", "pre_answer")
    return {
        "v*, largest relative error": max(
            float((a.v_star - wide.values[case].v_star).norm() / wide.values[case].v_star.norm())
            for case, a in one.values.items()
        ),
        "edits that answer new, share": new,
        "edits that answer new, float32": new_wide,
        "neighbours that answer as before, share": near,
        "neighbours that answer as before, float32": near_wide,
        "answers of the edited model that are equal, share": _share(
            [a["post_answer"] == b["post_answer"] for a, b in answers]
        ),
    }


def _residual(attributions: Sequence[Attribution]) -> float:
    found = [
        float(residual) / max(abs(one.value - float(without)), 1e-6)
        for one in attributions
        for residual, without in zip(one.residual, one.without, strict=True)
    ]
    return statistics.median(found)


def _certified(attributions: Sequence[Attribution]) -> float:
    return float(torch.stack([one.certified for one in attributions]).double().mean())


def _share(found: Sequence[bool]) -> float:
    return sum(found) / max(len(found), 1)


def main() -> None:
    """Compare and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a YAML of conf/model")
    parser.add_argument("--facts", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"])
    parser.add_argument("--parts", default=",".join(PARTS), help="what to compare")
    parser.add_argument("--contexts", type=int, help="ROME's, of each length (the preset's)")
    options = parser.parse_args()
    wide = configured_model(options.model)
    cases = some_cases(wide, options.facts)
    settings = {} if options.contexts is None else {"contexts": options.contexts}
    method = Rome.for_model(wide, **settings)
    parts = options.parts.split(",")
    contexts = sampled_contexts(
        wide, 0, method.contexts, method.context_lengths, method.context_openings
    )
    prompts = [wide.encode(edit_probe(case).query, edit_probe(case).old) for case in cases]
    noise = NOISE * subject_spread(wide, prompts)
    expected = found(wide, cases, method, contexts, noise, parts)
    del wide
    half = configured_model(options.model, options.dtype)
    rows = compared(found(half, cases, method, contexts, noise, parts), expected)
    print(table([{"": name, options.dtype: value} for name, value in rows.items()]))


if __name__ == "__main__":
    main()
