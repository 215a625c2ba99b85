"""What one more edit of a sequence costs behind many; `python -m benchmarks.editing --sequence`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch

from benchmarks.measuring import say, timed
from kn_sweeps.cases import Case
from kn_sweeps.edits import NO_EDIT, Edit, RankOne, joined
from kn_sweeps.evaluation.regimes import scored
from kn_sweeps.methods.rome import Rome
from kn_sweeps.models.language_model import LanguageModel


def sequence(
    lm: LanguageModel,
    cases: Sequence[Case],
    method: Rome,
    numbers: Sequence[int] = (0, 10, 100, 1000),
) -> list[dict[str, object]]:
    """Seconds of a step of one edit behind so many: planned, scored, and added to those before.

    Those before are of rank one, in random directions, and a thousandth as long as a real one, so
    that the model answers as it does. Numbers take turns, so that a busy machine slows all.
    """
    first = method.plan(lm, cases[:1], seed=0).edits[cases[0].id]
    assert isinstance(first, RankOne)
    draw = torch.Generator().manual_seed(0)
    effects: dict[int, Edit] = {}
    so_far: Edit = NO_EDIT
    for made in range(max(numbers) + 1):
        if made in numbers:
            effects[made] = so_far
        u, v = (
            torch.randn(len(x), generator=draw) * x.norm() / len(x) ** 0.5
            for x in (first.u, first.v)
        )
        so_far = joined([so_far, RankOne(first.layer, u, v * 1e-3)])
    seconds: dict[int, list[float]] = {made: [] for made in numbers}
    for case in cases:
        for made, before in effects.items():

            def step(case: Case = case, before: Edit = before, made: int = made) -> Edit:
                plan, _ = scored(
                    *(lm, method, [case]),
                    step=made,
                    seed=0,
                    regime="sequential",
                    before=before,
                    made=made,
                )
                return joined([before, *plan.edits.values()])

            _, took = timed(step, lm.device)
            seconds[made].append(took)
            say(f"behind {made} edits: {took:.2f} s")
    least = statistics.median(seconds[numbers[0]])
    return [
        {
            "edits before": made,
            "seconds an edit": round(statistics.median(took), 3),
            "times the first": round(statistics.median(took) / least, 2),
        }
        for made, took in seconds.items()
    ]
