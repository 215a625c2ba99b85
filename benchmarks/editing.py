"""ROME in batches and row-wise evaluation, side by side with one edit at a time.

    python -m benchmarks.editing             # SmolLM2, 16 edits of official P36
    python -m benchmarks.editing --growth    # time and memory against the number of edits
    python -m benchmarks.editing --sequence  # what one more edit costs behind a thousand
    python -m benchmarks.editing --operations  # how much work it is, counted
    python -m benchmarks.editing --shapes    # gpt2-xl, random weights, on CUDA

One at a time is tests/reference: an optimisation prompt by prompt, then apply, score every probe
by itself, restore. Both ways use the same contexts, and halves of the work take turns, so that a
busy machine slows both.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple
from unittest import mock

import torch
from transformers import AutoModelForCausalLM, GPT2Config

from benchmarks.measuring import (
    configured_model,
    official_data,
    peak_memory,
    random_model,
    random_prompts,
    say,
    table,
    timed,
)
from benchmarks.operations import operations
from benchmarks.sequences import sequence
from kn_sweeps.cases import Case, Probe
from kn_sweeps.data.pararel import ParaRel
from kn_sweeps.editing.contexts import sampled_contexts
from kn_sweeps.editing.requests import Request
from kn_sweeps.editing.values import Objective, optimise, optimised
from kn_sweeps.evaluation.evaluate import evaluate
from kn_sweeps.evaluation.selection import scorable
from kn_sweeps.methods.rome import Rome
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.stepping import CannotStepError
from kn_sweeps.models.tokenization import Encoded
from kn_sweeps.row import Row
from tests.reference import rome as reference
from tests.reference.scoring import causal_greedy, causal_log_prob

METHOD = Rome(layer=8, steps=25, weight_decay=1e-3, clamp_norm=4.0)
PROBES = 20
"""Probes of each edit, its own among them."""


@dataclass(frozen=True)
class Comparison:
    """What was measured; seconds are per edit."""

    edits: int
    reference_edits: int
    contexts: int
    edit_seconds: float
    reference_edit_seconds: float
    edit_ratio: float
    whole_rows_edit_seconds: float
    evaluate_seconds: float
    reference_evaluate_seconds: float
    evaluate_ratio: float
    answers_equal: bool
    v_star_max_relative_error: float
    edit_peak_memory_bytes: int


class _Done(NamedTuple):
    """One edit, the published way: its value, and the answers and log-probabilities after it."""

    v_star: torch.Tensor
    answers: list[tuple[int, ...]]
    edit_seconds: float
    evaluate_seconds: float


def _refused(*_: object) -> None:
    raise CannotStepError("not in this comparison")


def compare(
    lm: LanguageModel, cases: Sequence[Case], reference_edits: int = 4, method: Rome = METHOD
) -> Comparison:
    """Edit and evaluate `cases` both ways."""
    contexts = sampled_contexts(lm, 0, method.contexts, method.context_lengths)
    method.plan(lm, cases[:2], seed=0)  # pages, caches and threads are there from now on
    slow = cases[:reference_edits]
    half = (len(slow) + 1) // 2
    edit_times: list[float] = []
    evaluate_times: list[float] = []
    done: list[_Done] = []
    for some in (slow[:half], slow[half:]):
        for case in some:
            done.append(_one_at_a_time(lm, case, contexts, method))
            say(f"one at a time: {done[-1].edit_seconds:.1f} + {done[-1].evaluate_seconds:.1f} s")
        plan, took = timed(functools.partial(method.plan, lm, cases, 0), lm.device)
        edit_times.append(took / len(cases))
        judge = functools.partial(evaluate, lm, cases, plan, "replace")
        rows, took = timed(judge, lm.device)
        evaluate_times.append(took / len(cases))
        say(f"together: {edit_times[-1]:.2f} + {evaluate_times[-1]:.2f} s an edit")
    # Whole rows through the whole model, one edit at a time, as published code does.
    with mock.patch("kn_sweeps.editing.values.Stepped", _refused):
        _, took = timed(functools.partial(method.plan, lm, slow[:2], 0), lm.device)
    whole_rows = took / len(slow[:2])
    say(f"whole rows, an edit's contexts in one batch: {whole_rows:.1f} s an edit")
    with peak_memory(lm.device) as peak:
        found, _ = optimised(lm, cases, contexts, method.objective())
    ours = [found[case.id].v_star for case in slow]
    theirs = [one.v_star for one in done]
    edit, reference_edit = _mean(edit_times), _mean([one.edit_seconds for one in done])
    scoring, reference_scoring = (
        _mean(evaluate_times),
        _mean([one.evaluate_seconds for one in done]),
    )
    return Comparison(
        len(cases),
        len(slow),
        len(contexts),
        edit,
        reference_edit,
        reference_edit / edit,
        whole_rows,
        scoring,
        reference_scoring,
        reference_scoring / scoring,
        _answers(rows)[: len(slow)] == [[_text(lm, ids) for ids in one.answers] for one in done],
        max(float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True)),
        peak.bytes,
    )


def official_cases(lm: LanguageModel, root: str, count: int) -> list[Case]:
    """Facts of P36, each with 20 probes."""
    dataset = ParaRel(relations=("P36",), root=root, neighbours=PROBES)
    loaded = dataset.load(lm.kind, seed=0, limit=4 * count, editable=True)
    cases, _ = scorable(lm, loaded.cases)
    cases = [
        replace(case, probes=case.probes[: PROBES - 1])
        for case in cases
        if len(case.all_probes) >= PROBES
    ][:count]
    if len(cases) < count:
        raise SystemExit(f"only {len(cases)} of {count} cases have {PROBES} probes")
    return cases


def growth(lm: LanguageModel, root: str) -> list[dict[str, object]]:
    """Time and memory against the number of edits."""
    cases = official_cases(lm, root, 64)
    rows: list[dict[str, object]] = []
    METHOD.plan(lm, cases[:2], seed=0)
    for count in (1, 4, 16, 64):
        some = cases[:count]
        with peak_memory(lm.device) as editing:
            plan, took = timed(functools.partial(METHOD.plan, lm, some, 0), lm.device)
        with peak_memory(lm.device) as judging:
            judge = functools.partial(evaluate, lm, some, plan, "replace")
            _, scoring = timed(judge, lm.device)
        rows.append(
            {
                "edits": count,
                "seconds an edit": took / count,
                "editing memory, MiB": editing.bytes / 2**20,
                "seconds to evaluate one": scoring / count,
                "evaluation memory, MiB": judging.bytes / 2**20,
            }
        )
        say(str(rows[-1]))
    return rows


def shapes() -> list[dict[str, object]]:
    """Edits a minute of gpt2-xl's shape in bf16 on CUDA."""
    if not torch.cuda.is_available():
        raise SystemExit("--shapes needs a CUDA device")
    device = torch.device("cuda")
    with torch.device(device):
        config = GPT2Config(n_embd=1600, n_layer=48, n_head=25)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    lm = random_model("gpt2-xl", model)
    rows: list[dict[str, object]] = []
    for count in (1, 8, 64):
        requests = [
            Request(f"c{n}", tuple(_with_subject(one) for one in some), None)
            for n, some in enumerate(_split(random_prompts(lm, 21 * count, 16), 21))
        ]
        objective = Objective(17, 20, 0.5, 0.5, 4.0, 0.0625, max_rows=2048)
        optimise(lm, requests[:1], replace(objective, steps=2))
        with peak_memory(device) as peak:
            _, took = timed(functools.partial(optimise, lm, requests, objective), device)
        rows.append(
            {
                "edits": count,
                "device": torch.cuda.get_device_name(device),
                "edits a minute": 60 * count / took,
                "memory above the model, GiB": peak.bytes / 2**30,
            }
        )
    return rows


def _one_at_a_time(lm: LanguageModel, case: Case, contexts: Sequence[str], method: Rome) -> _Done:
    request = Request.of(lm, case, contexts)
    assert request.essence is not None
    projection = lm.architecture.mlp_output(method.layer)
    ids = torch.tensor([request.essence.prompt_ids])
    edit, edit_seconds = timed(
        lambda: reference.rome(
            lm.model,
            projection,
            [
                reference.Prompt(torch.tensor([one.prompt_ids]), one.subject_last)
                for one in request.prompts
            ],
            request.prompts[0].target_ids,
            reference.Essence(ids, request.essence.subject_last, ids.shape[1] - 1),  # type: ignore[union-attr]
            reference.Settings(
                method.steps, weight_decay=method.weight_decay, clamp_norm=method.clamp_norm
            ),
        ),
        lm.device,
    )

    def judged() -> list[tuple[int, ...]]:
        for probe in case.all_probes:
            _scored(lm, probe)
        weight = projection.weight
        assert isinstance(weight, torch.Tensor)
        before = weight.detach().clone()
        reference.apply_in_place(weight, edit.u, edit.v, transposed=False)
        try:
            return [_scored(lm, probe) for probe in case.all_probes]
        finally:
            with torch.no_grad():
                weight.copy_(before)

    answers, evaluate_seconds = timed(judged, lm.device)
    return _Done(edit.v_star, answers, edit_seconds, evaluate_seconds)


def _scored(lm: LanguageModel, probe: Probe) -> tuple[int, ...]:
    """Score both targets of one probe and give the greedy answer."""
    targets = [lm.encode(probe.query, text) for text in (probe.old, probe.new)]
    prompt = torch.tensor([targets[0].prompt_ids])
    for target in targets:
        causal_log_prob(lm.model, prompt, target.target_ids)
    return tuple(causal_greedy(lm.model, prompt, max(len(one.target_ids) for one in targets)))


def _text(lm: LanguageModel, ids: Sequence[int]) -> str:
    return str(lm.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


def _answers(rows: Sequence[Row]) -> list[list[str]]:
    by_case: dict[str, list[str]] = {}
    for row in rows:
        by_case.setdefault(row["case"], []).append(row["post_answer"])
    return list(by_case.values())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _with_subject(prompt: Encoded) -> Encoded:
    at = len(prompt.ids) - 4
    return replace(prompt, subject=(at, at + 1))


def _split(items: Sequence[Encoded], size: int) -> list[Sequence[Encoded]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.editing", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--growth", action="store_true", help="against the number of edits")
    parser.add_argument("--sequence", action="store_true", help="one more edit behind many")
    parser.add_argument("--operations", action="store_true", help="count them, time nothing")
    parser.add_argument("--shapes", action="store_true", help="a large random model on CUDA")
    parser.add_argument(
        "--root", help="folder of official ParaRel files (default: KN_SWEEPS_DATA/pararel)"
    )
    parser.add_argument("--edits", type=int, default=16)
    parser.add_argument(
        "--reference-edits", type=int, default=4, help="how many of them one at a time (slow)"
    )
    chosen = parser.parse_args()
    if chosen.shapes:
        rows = shapes()
    else:
        root = official_data(chosen.root, "pararel")
        lm = configured_model("smollm2_135m")
        if chosen.sequence:
            # Little of an edit's own work, so that what grows with the sequence would be seen.
            cases = [replace(case, probes=case.probes[:3]) for case in official_cases(lm, root, 5)]
            rows = sequence(lm, cases, replace(METHOD, contexts=0, steps=6))
        elif chosen.operations:
            rows = operations(lm, official_cases(lm, root, chosen.edits), METHOD)
        elif chosen.growth:
            rows = growth(lm, root)
        else:
            rows = [
                asdict(compare(lm, official_cases(lm, root, chosen.edits), chosen.reference_edits))
            ]
            if chosen.json:
                print(json.dumps(rows[0], indent=1))
                return
    print(json.dumps(rows, indent=1) if chosen.json else table(rows))


if __name__ == "__main__":
    main()
