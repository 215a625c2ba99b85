"""Train the tiny models that ship with the package, on nothing but its own bundled data.

``python -m kn_sweeps.tiny.train`` takes some minutes on a CPU, prints what the models know,
and fails if one knows less than `kn_sweeps.tiny.measure.REQUIRED`.
"""

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from kn_sweeps.tiny.batches import Batch, ExampleMaker
from kn_sweeps.tiny.corpus import all_texts, training_sentences
from kn_sweeps.tiny.measure import REQUIRED, measure
from kn_sweeps.tiny.tokenizer import MAX_LENGTH, causal_tokenizer, masked_tokenizer

OUT = Path(__file__).parent / "weights"
SEED = 0
LAYERS, WIDTH, HEADS = 5, 128, 4
# Wider than the usual 0.02, which suits a width of 768 and keeps a narrow model idle for long.
INITIAL_SPREAD = 0.05
# Makes GPT-2 keep a fact where every pattern finds it: without, a ROME edit made in one word order
# ("The field of [X] is") is not seen in the other ("[X] works in the field of").
GPT2_DROPOUT = 0.1


def make_bert(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """An untrained BERT of the tiny shape."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=MAX_LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=INITIAL_SPREAD,
        pad_token_id=tokenizer.pad_token_id,
    )
    return BertForMaskedLM(config)


def make_gpt2(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """An untrained GPT-2 of the tiny shape."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        n_inner=4 * WIDTH,
        n_positions=MAX_LENGTH,
        resid_pdrop=GPT2_DROPOUT,
        embd_pdrop=GPT2_DROPOUT,
        attn_pdrop=GPT2_DROPOUT,
        initializer_range=INITIAL_SPREAD,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return GPT2LMHeadModel(config)


@dataclass(frozen=True)
class Recipe:
    """How one model is made.

    Attributes:
        tokenizer: Makes the tokenizer from the texts that hold the vocabulary.
        model: Makes the untrained model.
        steps: Optimiser steps.
        batch: Sequences per step.
        rate: Peak learning rate.
    """

    tokenizer: Callable[[Sequence[str]], PreTrainedTokenizerFast]
    model: Callable[[PreTrainedTokenizerFast], PreTrainedModel]
    steps: int
    batch: int
    rate: float


RECIPES = {
    "tiny_bert": Recipe(masked_tokenizer, make_bert, steps=3500, batch=64, rate=1e-3),
    "tiny_gpt2": Recipe(causal_tokenizer, make_gpt2, steps=2500, batch=64, rate=2e-3),
}


def learning_rate(step: int, recipe: Recipe, warmup: int = 200) -> float:
    """Linear warm-up, then a cosine down to a hundredth of the peak."""
    if step < warmup:
        return recipe.rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, recipe.steps - warmup)
    return recipe.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def train_step(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, batch: Batch, rate: float
) -> float:
    """One optimiser step on the weighted cross-entropy; returns the loss in nats."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    chosen = batch.weights > 0
    logits = model(batch.ids, attention_mask=batch.attention).logits[chosen]
    losses = cross_entropy(logits, batch.labels[chosen], reduction="none")
    loss = (losses * batch.weights[chosen]).sum() / batch.weights.sum()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def train(
    recipe: Recipe, seed: int, log: Callable[[str], None]
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Train one model from nothing.

    Args:
        recipe: What to train and for how long.
        seed: Of the initial weights, the corpus and the masking.
        log: Takes a line of progress from time to time.

    Returns:
        The model in evaluation mode, and its tokenizer.
    """
    tokenizer = recipe.tokenizer(list(all_texts()))
    torch.manual_seed(seed)
    model = recipe.model(tokenizer).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    maker = ExampleMaker(tokenizer, training_sentences(seed), random.Random(f"batches/{seed}"))
    batches = maker.batches(recipe.batch)
    started = time.monotonic()
    recent: list[float] = []
    for step in range(recipe.steps):
        recent.append(train_step(model, optimizer, next(batches), learning_rate(step, recipe)))
        if (step + 1) % 500 == 0:
            seconds = time.monotonic() - started
            log(f"  step {step + 1:5d}  loss {sum(recent) / len(recent):.3f}  {seconds:5.0f} s")
            recent = []
    return without_dropout(model.eval()), tokenizer


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Take dropout out for good: who fine-tunes the model gets a deterministic one."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(model.config, name):
            setattr(model.config, name, 0.0)
    return model


def save(
    directory: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    figures: dict[str, float],
) -> None:
    """Write weights, tokenizer and figures, as `from_pretrained` reads them."""
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    rounded = {name: round(value, 4) for name, value in figures.items()}
    (directory / "figures.json").write_text(json.dumps(rounded, indent=2) + "\n")


def report(name: str, figures: dict[str, float], seconds: float) -> list[str]:
    """Print what a model knows; return the figures that it misses."""
    missed = []
    print(f"{name}  ({seconds:.0f} s)")
    for figure, value in figures.items():
        least = REQUIRED.get(figure)
        verdict = "" if least is None else f"  required {least:.0%}"
        if least is not None and value < least:
            missed.append(f"{name} {figure}: {value:.1%} < {least:.0%}")
            verdict += "  MISSED"
        print(f"  {figure:62s} {value:7.1%}{verdict}")
    return missed


def main(argv: Sequence[str] | None = None) -> int:
    """Train the tiny models and report what they know."""
    parser = argparse.ArgumentParser(
        prog="python -m kn_sweeps.tiny.train", description=main.__doc__
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the model folders")
    parser.add_argument("--models", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    logging.disable_progress_bar()
    missed: list[str] = []
    for name in args.models:
        started = time.monotonic()
        model, tokenizer = train(RECIPES[name], args.seed, lambda line: print(line, flush=True))
        figures = measure(model, tokenizer)
        save(args.out / name, model, tokenizer, figures)
        missed += report(name, figures, time.monotonic() - started)
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
