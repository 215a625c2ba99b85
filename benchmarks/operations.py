"""How much work editing is, counted and not timed; `python -m benchmarks.editing --operations`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from kn_sweeps.cases import Case
from kn_sweeps.editing.contexts import sampled_contexts
from kn_sweeps.editing.requests import Request
from kn_sweeps.editing.values import optimised
from kn_sweeps.methods.rome import Rome
from kn_sweeps.models.language_model import LanguageModel
from tests.reference.published_loop import published_delta
from tests.reference.rome import Essence, Prompt, Settings


def operations(lm: LanguageModel, cases: Sequence[Case], method: Rome) -> list[dict[str, object]]:
    """Of an edit, the operations of all matrix products where no optimisation ends early.

    `before` is what is done once, the unchanged model and the first loss; a step is a gradient and
    the next loss. The last column is how much longer the other way takes where both compute at one
    speed.
    """
    contexts = sampled_contexts(lm, 0, method.contexts, method.context_lengths)

    def together(steps: int) -> None:
        optimised(lm, cases, contexts, replace(method, steps=steps).objective())

    def one_by_one(steps: int) -> None:
        for case in cases:
            _published(lm, Request.of(lm, case, contexts), replace(method, steps=steps))

    rows: list[dict[str, object]] = []
    least = None
    for name, run in (("together", together), ("published loop", one_by_one)):
        first, second = (_counted(run, steps) / len(cases) / 1e9 for steps in (1, 2))
        step = second - first
        whole = first + (method.steps - 1) * step
        least = least or whole
        rows.append(
            {
                "way": name,
                "before, GFLOP": first,
                "a step, GFLOP": step,
                "all steps, GFLOP": whole,
                "times the first": whole / least,
            }
        )
    return rows


def _counted(run: Callable[[int], None], steps: int) -> int:
    with FlopCounterMode(display=False) as counter:
        run(steps)
    return int(counter.get_total_flops())


def _published(lm: LanguageModel, request: Request, method: Rome) -> None:
    """One edit by the published loop."""
    essence = request.essence
    assert essence is not None
    ids = torch.tensor([essence.prompt_ids])
    published_delta(
        lm.model,
        lm.architecture.mlp_output(method.layer),
        [Prompt(torch.tensor([one.prompt_ids]), one.subject_last) for one in request.prompts],
        request.prompts[0].target_ids,
        Essence(ids, essence.subject_last, ids.shape[1] - 1),
        Settings(method.steps, weight_decay=method.weight_decay, clamp_norm=method.clamp_norm),
    )
