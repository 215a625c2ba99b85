"""Attribution side by side with the published way: seconds, accuracy, memory.

    python -m benchmarks.attribution             # SmolLM2 on official BLiMP, and a random bert-base
    python -m benchmarks.attribution --growth    # time against layers, tokens, prompts and nodes
    python -m benchmarks.attribution --shapes    # gpt2-xl and llama-2-7b, random weights, on CUDA

The published way is the loop of tests/reference: layer after layer, 20 Riemann steps a batch. Both
run on the same prompts in turn, so that a busy machine slows both. Agreement of the coarse sets is
with a fixed Gauss-Legendre rule of 512 nodes.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
)

from benchmarks.measuring import (
    configured_model,
    matrix_product_rate,
    official_data,
    operations,
    peak_memory,
    random_model,
    random_prompts,
    say,
    table,
    timed,
)
from kn_sweeps.attribution.integrated_gradients import Attribution, integrated_gradients
from kn_sweeps.attribution.quadrature import FLOOR, Quadrature
from kn_sweeps.data.blimp import Blimp
from kn_sweeps.data.paradigms import available_paradigms, read_paradigm
from kn_sweeps.data.sources import Source
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import Encoded, UnscorableError
from tests.reference.integrated_gradients import knowledge_neurons_reference
from tests.reference.reading import Row

THRESHOLD = 0.2
"""A coarse set is the scores above this share of the largest."""

MAX_ROWS = 512
"""Rows of a pass, the default."""


@dataclass(frozen=True)
class Case:
    """What was measured on one model."""

    model: str
    prompts: int
    tokens: float
    seconds_per_prompt: float
    reference_seconds_per_prompt: float
    ratio: float
    worst_relative_residual: float
    uncertified_layers: int
    min_jaccard: float
    reference_min_jaccard: float
    peak_memory_bytes: int
    fixed_rule_peak_memory_bytes: int
    half_rows_peak_memory_bytes: int
    half_rows_largest_difference: float


def measure(lm: LanguageModel, prompts: Sequence[Encoded], converged: int = 512) -> Case:
    """Measure our way and the published way on the same prompts."""
    count = len(prompts)
    integrated_gradients(lm, prompts)  # pages, caches and threads are there from now on
    times: list[float] = []
    reference_times: list[float] = []
    loops: list[torch.Tensor] = []
    for half in (prompts[: count // 2], prompts[count // 2 :]):
        for prompt in half:
            loop, took = timed(functools.partial(_reference, lm, prompt), lm.device)
            loops.append(loop)
            reference_times.append(took)
            say(f"{lm.name}: reference {reference_times[-1]:.1f} s")
        times.append(timed(lambda: integrated_gradients(lm, prompts), lm.device)[1])
        say(f"{lm.name}: ours {times[-1] / count:.3f} s a prompt")
    with peak_memory(lm.device) as peak:
        found = integrated_gradients(lm, prompts)
    # A fixed rule, for the few cells that adaptation does in double would hide what rows take.
    rule = Quadrature("gauss_legendre", 8)
    rows = min(MAX_ROWS, rule.steps * count * lm.architecture.layers)
    passes = []
    for max_rows in (rows, rows // 2):
        with peak_memory(lm.device) as rows_peak:
            scores = integrated_gradients(lm, prompts, rule, max_rows=max_rows)
        passes.append((rows_peak.bytes, scores))
    (rows_bytes, whole), (half_bytes, halved) = passes
    ours, theirs = [], []
    for prompt, one, loop in zip(prompts, found, loops, strict=True):
        (fine,) = integrated_gradients(lm, [prompt], Quadrature("gauss_legendre", converged))
        ours.append(jaccard(one.scores, fine.scores))
        theirs.append(jaccard(loop, fine.scores))
        say(f"{lm.name}: agreement {ours[-1]:.3f}")
    here, there = sum(times) / len(times) / count, sum(reference_times) / count
    return Case(
        lm.name,
        count,
        sum(len(prompt.ids) for prompt in prompts) / count,
        here,
        there,
        there / here,
        max(float(_relative(one).max()) for one in found),
        sum(int((~one.certified).sum()) for one in found),
        min(ours),
        min(theirs),
        peak.bytes,
        rows_bytes,
        half_bytes,
        max(float((a.scores - b.scores).abs().max()) for a, b in zip(whole, halved, strict=True)),
    )


def smollm2(root: str, count: int, min_tokens: int) -> tuple[LanguageModel, list[Encoded]]:
    """SmolLM2-135M and official BLiMP pairs, in turn from each paradigm it can be asked about."""
    lm = configured_model("smollm2_135m")
    source = Blimp(source="hub", root=root).resolved()
    pools = [_askable(lm, source, name, min_tokens) for name in available_paradigms(source)]
    prompts: list[Encoded] = []
    while len(prompts) < count:
        turn = [(pool, prompt) for pool in pools if (prompt := next(pool, None)) is not None]
        if not turn:
            raise SystemExit(f"only {len(prompts)} prompts of {min_tokens} tokens or more")
        pools = [pool for pool, _ in turn]
        prompts += [prompt for _, prompt in turn]
    return lm, prompts[:count]


def random_bert(count: int, tokens: int = 18) -> tuple[LanguageModel, list[Encoded]]:
    """A bert-base of random weights and prompts of random tokens with one mask."""
    torch.manual_seed(0)
    lm = random_model("bert_base_random", BertForMaskedLM(BertConfig()))
    return lm, random_prompts(lm, count, tokens)


def growth() -> list[dict[str, object]]:
    """Time against layers, tokens, prompts and nodes, and the floor the operations set."""
    device = torch.device("cpu")
    base = {"layers": 30, "tokens": 12, "prompts": 4, "nodes": 8}
    rates = matrix_product_rate(device, torch.float32)
    rows: list[dict[str, object]] = []
    for name, values in {
        "layers": (5, 10, 20, 30),
        "tokens": (12, 24, 48, 96),
        "prompts": (1, 4, 16),
        "nodes": (4, 8, 16, 32),
    }.items():
        for value in values:
            shape = base | {name: value}
            lm = random_model("smollm2 shape", LlamaForCausalLM(_smollm2_config(shape["layers"])))
            prompts = random_prompts(lm, shape["prompts"], shape["tokens"])
            rule = Quadrature("gauss_legendre", shape["nodes"])

            run = functools.partial(integrated_gradients, lm, prompts, rule)
            run()
            took = min(timed(run, device)[1] for _ in range(2))
            floor = operations(run) / rates
            rows.append(
                {
                    "against": name,
                    **shape,
                    "seconds a prompt": took / shape["prompts"],
                    "floor": floor / shape["prompts"],
                    "ratio to the floor": took / floor,
                }
            )
            say(str(rows[-1]))
    return rows


def shapes() -> list[dict[str, object]]:
    """Prompts a second for two large shapes in bf16 on CUDA."""
    if not torch.cuda.is_available():
        raise SystemExit("--shapes needs a CUDA device")
    device = torch.device("cuda")
    rows: list[dict[str, object]] = []
    for name, config in {
        "gpt2-xl": GPT2Config(n_embd=1600, n_layer=48, n_head=25),
        "llama-2-7b": LlamaConfig(),
    }.items():
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        lm = random_model(name, model)
        prompts = random_prompts(lm, 32, 16)
        rule = Quadrature("gauss_legendre", 8)
        integrated_gradients(lm, prompts[:4], rule)
        with peak_memory(device) as peak:
            _, took = timed(functools.partial(integrated_gradients, lm, prompts, rule), device)
        rows.append(
            {
                "shape": name,
                "device": torch.cuda.get_device_name(device),
                "prompts a second": len(prompts) / took,
                "memory above the model, GiB": peak.bytes / 1024**3,
            }
        )
        del lm
        torch.cuda.empty_cache()
    return rows


def _askable(lm: LanguageModel, source: Source, name: str, min_tokens: int) -> Iterator[Encoded]:
    for pair in read_paradigm(source, name).pairs:
        # Tokenising is slow, and no word of BLiMP has more than a few tokens.
        if pair.why_not(lm.kind) is not None or 2 * len(pair.prefix.split()) < min_tokens:
            continue
        try:
            prompt = lm.encode(pair.query, pair.old)
        except UnscorableError:
            continue
        # The published code takes targets of one token only.
        if len(prompt.prompt_ids) >= min_tokens and len(prompt.target_ids) == 1:
            yield prompt


def _reference(lm: LanguageModel, prompt: Encoded) -> torch.Tensor:
    rows = [
        Row(torch.tensor([row.ids], device=lm.device), row.positions, row.tokens)
        for row in lm.rows(prompt)
    ]
    projections = [lm.architecture.mlp_output(k) for k in range(lm.architecture.layers)]
    return knowledge_neurons_reference(lm.model, projections, rows, steps=20)


def _relative(one: Attribution) -> torch.Tensor:
    return one.residual / (one.value - one.without).abs().clamp(min=FLOOR)


def jaccard(one: torch.Tensor, other: torch.Tensor) -> float:
    """Of the coarse sets of two prompts, or of one prompt attributed in two ways."""
    a, b = (scores.cpu() > THRESHOLD * scores.max().cpu() for scores in (one, other))
    return float((a & b).sum() / (a | b).sum())


def _smollm2_config(layers: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attribution", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--growth", action="store_true", help="time against the shape")
    parser.add_argument("--shapes", action="store_true", help="large random models on CUDA")
    parser.add_argument(
        "--root", help="folder of official BLiMP files (default: KN_SWEEPS_DATA/blimp)"
    )
    parser.add_argument("--model", choices=("smollm2_135m", "bert_base_random"), help="only one")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--min-tokens", type=int, default=12, help="of a BLiMP prompt")
    chosen = parser.parse_args()
    if chosen.growth or chosen.shapes:
        rows = growth() if chosen.growth else shapes()
        print(json.dumps(rows, indent=1) if chosen.json else table(rows))
        return
    cases: list[Case] = []
    if chosen.model != "bert_base_random":
        root = official_data(chosen.root, "blimp")
        cases.append(measure(*smollm2(root, chosen.prompts, chosen.min_tokens)))
    if chosen.model != "smollm2_135m":
        cases.append(measure(*random_bert(max(2, chosen.prompts // 10))))
    if chosen.json:
        print(json.dumps({"cases": [asdict(case) for case in cases]}, indent=1))
    else:
        print(table([asdict(case) for case in cases]))


if __name__ == "__main__":
    main()
