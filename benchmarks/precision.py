"""What bfloat16 and float16 do to every number, beside float32 in the same run.

    python -m benchmarks.precision smollm2_135m --facts 3

Bundled facts are attributed, traced, edited by ROME and asked, by the same model in both dtypes, on
the CPU. Contexts, noise and cases are the same; the table has how far apart results are, and the
ratio of the times.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.attribution import jaccard
from benchmarks.measuring import configured_model, say, table, timed
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

NOISE, SAMPLES = 3.0, 2


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

    attributions: Sequence[Attribution]
    traces: Sequence[Trace]
    values: dict[str, Value]
    rows: Sequence[Row]
    seconds: dict[str, float]


def found(
    lm: LanguageModel, cases: Sequence[Case], method: Rome, contexts: Sequence[str], noise: float
) -> Found:
    """Do everything once in a model's dtype."""
    probes = [edit_probe(case) for case in cases]
    prompts = [lm.encode(probe.query, probe.old) for probe in probes]
    evaluate(lm, cases[:1], NoEdit().plan(lm, cases[:1]), "replace")  # what loads, loads now
    seconds: dict[str, float] = {}
    attributions, seconds["attribution"] = timed(
        partial(integrated_gradients, lm, prompts), lm.device
    )
    say(f"{lm.model.dtype}: attribution {seconds['attribution']:.1f} s")

    def traced() -> list[Trace]:
        return [trace(lm, one, noise=noise, seed=0, samples=SAMPLES) for one in prompts[:1]]

    traces, seconds["tracing"] = timed(traced, lm.device)
    say(f"{lm.model.dtype}: tracing {seconds['tracing']:.1f} s")
    (values, _), seconds["rome"] = timed(
        partial(optimised, lm, cases, contexts, method.objective()), lm.device
    )
    say(f"{lm.model.dtype}: ROME {seconds['rome']:.1f} s")
    judge = partial(evaluate, lm, cases, _plan(method, values), "replace")
    rows, seconds["evaluation"] = timed(judge, lm.device)
    say(f"{lm.model.dtype}: evaluation {seconds['evaluation']:.1f} s")
    return Found(attributions, traces, values, rows, seconds)


def _plan(method: Rome, values: dict[str, Value]) -> Plan:
    edits: dict[str, Edit] = {case: method.update(value) for case, value in values.items()}
    return Plan(edits, {case: case for case in edits})


def compared(one: Found, wide: Found) -> dict[str, float]:
    """How far a dtype's results are from those of float32."""
    pairs = list(zip(one.attributions, wide.attributions, strict=True))
    shared = [jaccard(a.scores, b.scores) for a, b in pairs]
    answers = list(zip(one.rows, wide.rows, strict=True))
    edited = [(a, b) for a, b in answers if a["kind"] == "edit"]
    near = [(a, b) for a, b in answers if a["kind"] == "neighbour"]
    return {
        "coarse sets, least Jaccard": min(shared),
        "coarse sets, mean Jaccard": statistics.mean(shared),
        "scores, largest relative error": max(
            float((a.scores - b.scores).norm() / b.scores.norm()) for a, b in pairs
        ),
        "P(answer), largest relative error": max(abs(a.value / b.value - 1) for a, b in pairs),
        "completeness residual, median of layers": _residual(one.attributions),
        "the same in float32": _residual(wide.attributions),
        "layers certified, share": _certified(one.attributions),
        "the same of float32": _certified(wide.attributions),
        "tracing: effects, largest error": max(
            float((a.effects[what] - b.effects[what]).abs().max())
            for a, b in zip(one.traces, wide.traces, strict=True)
            for what in a.effects
        ),
        "tracing: largest effect in float32": max(
            float(b.effects[what].abs().max()) for b in wide.traces for what in b.effects
        ),
        "v*, largest relative error": max(
            float((a.v_star - wide.values[case].v_star).norm() / wide.values[case].v_star.norm())
            for case, a in one.values.items()
        ),
        "edits that answer new, share": _share(
            [row["post_answer"] == row["new"] for row, _ in edited]
        ),
        "the same with float32": _share([row["post_answer"] == row["new"] for _, row in edited]),
        "answers of the edited model that are equal, share": _share(
            [a["post_answer"] == b["post_answer"] for a, b in answers]
        ),
        "neighbours that answer as before, share": _share(
            [row["post_answer"] == row["pre_answer"] for row, _ in near]
        ),
        "the same, of float32": _share(
            [row["post_answer"] == row["pre_answer"] for _, row in near]
        ),
        **{
            f"{what}: seconds, ratio": one.seconds[what] / wide.seconds[what]
            for what in one.seconds
        },
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
    options = parser.parse_args()
    wide = configured_model(options.model)
    cases = some_cases(wide, options.facts)
    method = Rome.for_model(wide)
    contexts = sampled_contexts(
        wide, 0, method.contexts, method.context_lengths, method.context_openings
    )
    prompts = [wide.encode(edit_probe(case).query, edit_probe(case).old) for case in cases]
    noise = NOISE * subject_spread(wide, prompts)
    expected = found(wide, cases, method, contexts, noise)
    del wide
    half = configured_model(options.model, options.dtype)
    rows = compared(found(half, cases, method, contexts, noise), expected)
    print(table([{"": name, options.dtype: value} for name, value in rows.items()]))


if __name__ == "__main__":
    main()
