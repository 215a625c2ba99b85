"""Free answers of many probes under many edits beside one `generate` a probe.

python -m benchmarks.generating --json     SmolLM2-135M, facts of official ParaRel (KN_SWEEPS_DATA)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch

from benchmarks.measuring import configured_model, official_data, say, timed
from kn_sweeps.data.pararel import ParaRel
from kn_sweeps.edits import RankOne
from kn_sweeps.interventions import applied_rowwise
from kn_sweeps.models.generating import Prompt, Writing, write
from kn_sweeps.models.language_model import LanguageModel
from tests.reference.generating import generated

TOKENS = 24


@dataclass(frozen=True)
class Comparison:
    """Both ways of answering the same probes.

    Attributes:
        answers: How many.
        seconds: Ours, for all.
        reference_seconds: One `generate` a probe, under its edit.
        ratio: The second over the first.
        equal: Share of answers that are equal; rounding decides near ties.
    """

    answers: int
    seconds: float
    reference_seconds: float
    ratio: float
    equal: float


def compare(lm: LanguageModel, prompts: Sequence[Prompt]) -> Comparison:
    """Answer some prompts both ways, in as many tokens."""
    ours = partial(write, lm, prompts, Writing(TOKENS, stops=False), partial(applied_rowwise, lm))
    found, took = timed(ours, lm.device)
    say(f"{took:.2f} s for {len(prompts)}")

    def one_by_one() -> list[str]:
        return [
            generated(lm, lm.encode_open(one.query).prompt_ids, one.edit, TOKENS) for one in prompts
        ]

    expected, slow = timed(one_by_one, lm.device)
    same = sum(a == b for a, b in zip(found, expected, strict=True))
    return Comparison(len(prompts), took, slow, slow / took, same / len(prompts))


def probes(lm: LanguageModel, edits: int) -> list[Prompt]:
    """The probes of some facts, each under a small change of its own."""
    data = ParaRel(root=official_data(None, "pararel"), relations=("P36",))
    cases = data.load(lm.kind, seed=0, limit=edits, editable=True).cases
    draw = torch.Generator().manual_seed(0)
    sizes = (lm.architecture.d_ff, lm.architecture.d_model)
    prompts = []
    for case in cases:
        u, v = (torch.randn(n, generator=draw) / n**0.5 for n in sizes)
        edit = RankOne(lm.architecture.layers // 2, u, v)
        prompts += [Prompt(probe.query, edit) for probe in case.all_probes]
    return prompts


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure on SmolLM2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one object on the output")
    parser.add_argument("--edits", type=int, default=8, help="facts whose probes are asked")
    chosen = parser.parse_args(arguments)
    lm = configured_model("smollm2_135m")
    found = compare(lm, probes(lm, chosen.edits))
    print(json.dumps(asdict(found)) if chosen.json else found)


if __name__ == "__main__":
    main()
