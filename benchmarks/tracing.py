"""Causal tracing beside one forward pass a cell.

python -m benchmarks.tracing --json     SmolLM2-135M, facts of official ParaRel (KN_SWEEPS_DATA)
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.measuring import configured_model, official_data, peak_memory, say, timed
from kn_sweeps.attribution.causal_tracing import subject_noise, subject_spread, trace
from kn_sweeps.cases import COMPONENTS, Component
from kn_sweeps.data.pararel import ParaRel
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import Encoded
from tests.reference.tracing import indirect_effects

SAMPLES, WINDOW = 10, 10


@dataclass(frozen=True)
class Comparison:
    """Both ways of tracing the same prompts.

    Attributes:
        prompts: How many.
        seconds_per_prompt: Ours, all components.
        reference_seconds_per_prompt: One forward a cell, all draws of the noise in its batch.
        ratio: The second over the first.
        largest_difference: Between their effects, in probability.
        largest_effect: To compare it with.
        peak_memory_bytes: Above the model.
    """

    prompts: int
    seconds_per_prompt: float
    reference_seconds_per_prompt: float
    ratio: float
    largest_difference: float
    largest_effect: float
    peak_memory_bytes: int


def compare(lm: LanguageModel, prompts: Sequence[Encoded]) -> Comparison:
    """Trace some prompts both ways; their answers have one token."""
    noise = 3 * subject_spread(lm, prompts)
    ours: list[float] = []
    theirs: list[float] = []
    differences: list[float] = []
    effects: list[float] = []
    how: dict[str, Any] = {"noise": noise, "seed": 0, "samples": SAMPLES}
    trace(lm, prompts[0], **how, components=["state"])
    with peak_memory(lm.device) as peak:
        trace(lm, prompts[0], **how)
    for prompt in prompts:
        found, took = timed(
            functools.partial(trace, lm, prompt, **how, window=WINDOW),
            lm.device,
        )
        ours.append(took)
        slow = 0.0
        for component in COMPONENTS:
            naive = functools.partial(_one_forward_a_cell, lm, prompt, component, noise)
            expected, took = timed(naive, lm.device)
            slow += took
            differences.append(float((found.effects[component] - expected).abs().max()))
            effects.append(float(expected.abs().max()))
        theirs.append(slow)
        say(f"{ours[-1]:.2f} s against {slow:.1f} s")
    mine, other = sum(ours) / len(ours), sum(theirs) / len(theirs)
    return Comparison(
        len(prompts), mine, other, other / mine, max(differences), max(effects), peak.bytes
    )


def _one_forward_a_cell(
    lm: LanguageModel, prompt: Encoded, component: Component, noise: float
) -> torch.Tensor:
    architecture = lm.architecture
    (row,) = lm.rows(prompt)

    def read(copies: int) -> torch.Tensor:
        ids = torch.tensor([row.ids] * copies, device=lm.device)
        with torch.no_grad():
            logits = lm.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        found: torch.Tensor = logits[:, row.positions[0]].float().softmax(-1)
        return found[:, row.tokens[0]]

    modules: dict[Component, list[nn.Module]] = {
        "state": list(architecture.blocks),
        "mlp": [architecture.mlp_output(n) for n in range(architecture.layers)],
        "attention": [architecture.attention_output(n) for n in range(architecture.layers)],
    }
    drawn = subject_noise(prompt, architecture.d_model, noise=noise, seed=0, samples=SAMPLES)
    assert prompt.subject is not None
    return indirect_effects(
        *(architecture.embeddings, modules[component], prompt.subject, drawn.to(lm.device)),
        *(len(prompt.prompt_ids), 1 if component == "state" else WINDOW, read),
    )[1]


def official_prompts(lm: LanguageModel, root: str, count: int) -> list[Encoded]:
    """Facts of P36 whose answer is one token."""
    loaded = ParaRel(relations=("P36",), root=root).load(
        lm.kind, seed=0, limit=20 * count, editable=True
    )
    edits = [case.edit for case in loaded.cases if case.edit is not None]
    prompts = [lm.encode(edit.query, edit.old) for edit in edits]
    return [prompt for prompt in prompts if len(prompt.target_ids) == 1][:count]


def on_facts(
    name: str, about: str | None, compare: Callable[[LanguageModel, list[Encoded]], Any], count: int
) -> None:
    """Compare on some facts as the command line says, and print what was found.

    Args:
        name: The benchmark's module.
        about: Its docstring.
        compare: What gives a dataclass of numbers.
        count: How many facts, unless it is said.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=(about or "").splitlines()[0]
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--root", help="folder of official ParaRel files (default: KN_SWEEPS_DATA/pararel)"
    )
    parser.add_argument("--prompts", type=int, default=count)
    chosen = parser.parse_args()
    lm = configured_model("smollm2_135m")
    prompts = official_prompts(lm, official_data(chosen.root, "pararel"), chosen.prompts)
    found = asdict(compare(lm, prompts))
    text = json.dumps(found, indent=1)
    print(text if chosen.json else "\n".join(f"{name}: {value}" for name, value in found.items()))


def main() -> None:
    """Measure and print."""
    on_facts("tracing", __doc__, compare, 2)


if __name__ == "__main__":
    main()
