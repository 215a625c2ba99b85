"""Curves of silenced neurons beside one forward pass a cell.

python -m benchmarks.faithfulness --json     SmolLM2-135M, facts of official ParaRel
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.measuring import peak_memory, say, timed
from benchmarks.tracing import on_facts
from kn_sweeps.attribution.faithfulness import curves, sizes
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import Encoded
from tests.reference.reading import Row
from tests.reference.silencing import probability_without

RANKINGS = 2


@dataclass(frozen=True)
class Comparison:
    """Both ways of silencing neurons of the same prompts.

    Attributes:
        prompts: How many.
        cells: Of all prompts, rankings, curves and sizes.
        seconds: Ours.
        reference_seconds: One forward a cell.
        ratio: The second over the first.
        largest_difference: Between their probabilities.
        peak_memory_bytes: Above the model.
    """

    prompts: int
    cells: int
    seconds: float
    reference_seconds: float
    ratio: float
    largest_difference: float
    peak_memory_bytes: int


def compare(lm: LanguageModel, prompts: Sequence[Encoded]) -> Comparison:
    """Silence the neurons of two random rankings both ways."""
    has = lm.architecture
    draw = torch.Generator().manual_seed(0)
    scores = torch.rand(RANKINGS, len(prompts), has.layers, has.d_ff, generator=draw)
    ks = sizes(has.layers * has.d_ff)
    ours = functools.partial(curves, lm, prompts, scores, ks)
    with peak_memory(lm.device) as peak:
        ours()  # pages, caches and threads are there from now on
    found, seconds = timed(ours, lm.device)
    say(f"{seconds:.1f} s")
    expected, reference_seconds = timed(
        functools.partial(_one_forward_a_cell, lm, prompts, scores, ks), lm.device
    )
    say(f"against {reference_seconds:.1f} s")
    return Comparison(
        len(prompts),
        found.numel(),
        seconds,
        reference_seconds,
        reference_seconds / seconds,
        float((found - expected).abs().max()),
        peak.bytes,
    )


def _one_forward_a_cell(
    lm: LanguageModel, prompts: Sequence[Encoded], scores: torch.Tensor, ks: Sequence[int]
) -> torch.Tensor:
    has = lm.architecture
    projections = [has.mlp_output(layer) for layer in range(has.layers)]
    found = torch.zeros(2, len(scores), len(prompts), len(ks), dtype=torch.float64)
    for p, prompt in enumerate(prompts):
        rows = [
            Row(torch.tensor([row.ids], device=lm.device), row.positions, row.tokens)
            for row in lm.rows(prompt)
        ]
        for r in range(len(scores)):
            ranks = scores[r, p].flatten().argsort(descending=True, stable=True).argsort()
            ranks = ranks.view(has.layers, has.d_ff)
            for n, k in enumerate(ks):
                for curve, silent in enumerate((ranks < k, ranks >= k)):
                    found[curve, r, p, n] = probability_without(lm.model, projections, rows, silent)
    return found


def main() -> None:
    """Measure and print."""
    on_facts("faithfulness", __doc__, compare, 4)


if __name__ == "__main__":
    main()
