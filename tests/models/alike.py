"""What is found with a model, to be compared with what is found with another."""

from __future__ import annotations

from typing import Any

import kn_sweeps as kn
from kn_sweeps.attribution.causal_tracing import trace
from kn_sweeps.attribution.integrated_gradients import Attribution, integrated_gradients
from kn_sweeps.attribution.lens import log_prob_increase
from kn_sweeps.cases import COMPONENTS, Case, Probe, Query
from kn_sweeps.edits import NeuronScale
from kn_sweeps.interventions import written_by
from kn_sweeps.methods.ft import FineTuning
from kn_sweeps.methods.rome import Rome
from kn_sweeps.models.language_model import LanguageModel

QUERY = Query("The capital of France is ", ".", (15, 21))
CASE = Case("c0", "P36", "fact", Probe(QUERY, "Paris", "New Delhi", "edit"), (QUERY,))


def located(lm: LanguageModel) -> dict[str, Any]:
    prompts = [lm.encode(QUERY, target) for target in ("Paris", "New Delhi")]
    found: list[Attribution] = integrated_gradients(lm, prompts)
    traced = trace(lm, prompts[0], noise=0.5, seed=0, samples=2, components=COMPONENTS, window=2)
    numbers: dict[str, Any] = {f"scores {n}": one.scores for n, one in enumerate(found)}
    numbers |= {f"effects {name}": x for name, x in traced.effects.items()}
    if lm.kind == "causal" and lm.architecture.adds_as_is:
        numbers["lens"] = log_prob_increase(lm, prompts)
    return numbers | {"written": written_by(lm, 1, [0, 3])}


def edited(lm: LanguageModel) -> dict[str, Any]:
    numbers = {}
    methods = (Rome(layer=1, steps=4, contexts=0), FineTuning(layer=2, steps=3))
    plans: list[Any] = [method.plan(lm, [CASE], seed=0) for method in methods]
    for n, edit in enumerate([*plans, NeuronScale(((0, 3), (1, 7)), 0.0)]):
        numbers[f"rows {n}"] = kn.evaluate(lm, [CASE], edit).rows
    return numbers
