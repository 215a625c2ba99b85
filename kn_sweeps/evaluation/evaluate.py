"""Edits x probes -> rows: what the model says before and after each edit."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from kn_sweeps.cases import Case, Intent, Probe, Query
from kn_sweeps.edits import is_identity
from kn_sweeps.interventions import applied_rowwise
from kn_sweeps.models.asking import (
    Changed,
    Question,
    Reply,
    Sentence,
    TargetScore,
    ask,
    score_sentences,
)
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import UnscorableError
from kn_sweeps.plans import Plan
from kn_sweeps.progress.counting import counting

Record = dict[str, Any]


@dataclass(frozen=True)
class _Answers:
    """Replies to questions and scores of sentences; each says under which edit."""

    replies: Mapping[Question, Reply]
    sentences: Mapping[Sentence, TargetScore]


def evaluate(
    lm: LanguageModel,
    cases: Sequence[Case],
    plan: Plan,
    intent: Intent,
    after: Literal["edit", "all"] = "edit",
) -> list[Record]:
    """Ask every probe of every case before and after its edit.

    Probes of all edits share batches; each row of a batch has its own edit.

    Args:
        lm: The model, unchanged; it is unchanged again on return.
        cases: Cases whose probes can be tokenised (see `scorable`).
        plan: Their edits.
        intent: What the edits are for.
        after: What a row says of when it was asked: after its own edit, or after all of a
            sequence.

    Returns:
        One row a probe, in the order of the cases; the columns are those of docs/metrics.md. A
        case whose edit failed has one row of kind `failed`. Log-probabilities are in nats, KL is
        KL(pre || post) of the answer's first token.
    """
    # One edit may have many names, where several cases' are in effect at once. What plainly
    # changes nothing is not asked again: no edit, no change, not even of rounding.
    edits = list({id(edit): edit for edit in plan.edits.values() if not is_identity(edit)}.values())
    order = {id(edit): n + 1 for n, edit in enumerate(edits)}
    number = {name: order.get(id(edit), 0) for name, edit in plan.edits.items()}

    def changed(rows: Sequence[int]) -> AbstractContextManager[None]:
        return applied_rowwise(lm, edits, [row - 1 for row in rows])

    asked = {
        case.id: [(probe, number[plan.edit_of[case.id]]) for probe in case.all_probes]
        for case in cases
        if case.id not in plan.failed
    }
    probes = [pair for some in asked.values() for pair in some]
    with counting("round of questions", 2) as tell:
        pre = _ask(lm, [(probe, 0) for probe, _ in probes])
        tell(1)
        post = _ask(lm, [(probe, edit) for probe, edit in probes if edit], changed)
    answers = _Answers({**pre.replies, **post.replies}, {**pre.sentences, **post.sentences})
    rows: list[Record] = []
    for case in cases:
        about = {
            "case": case.id,
            "edit": plan.edit_of.get(case.id, case.id),
            "source": case.source,
            "task": case.task,
            "intent": intent,
            "after": after,
        }
        if case.id in plan.failed:
            rows.append({**about, "probe": 0, "kind": "failed", "failure": plan.failed[case.id]})
            continue
        rows += [
            {**about, "probe": n, **_row(probe, answers, edit)}
            for n, (probe, edit) in enumerate(asked[case.id])
        ]
    return rows


def scorable(lm: LanguageModel, cases: Iterable[Case]) -> tuple[list[Case], dict[str, list[str]]]:
    """Keep the cases, and of each the probes, that the tokenizer can put together.

    Returns:
        The cases, and by reason what was left out: one message a case, probe or prompt.
    """
    kept: list[Case] = []
    left_out: dict[str, list[str]] = {}

    def fits(what: str, query: Query, *targets: str) -> bool:
        try:
            for target in targets:
                lm.encode(query, target)
        except UnscorableError as error:
            left_out.setdefault(f"{what}: {error.reason}", []).append(str(error))
            return False
        return True

    for case in cases:
        if (edit := case.edit) is not None:
            if not fits("case", edit.query, edit.old, edit.new):
                continue
            answers = case.seen_answers or (edit.old,) * len(case.seen)
            fitting = [
                fits("prompt", query, *dict.fromkeys((answer, edit.old, edit.new)))
                for query, answer in zip(case.seen, answers, strict=True)
            ]
            case = replace(
                case,
                seen=tuple(itertools.compress(case.seen, fitting)),
                seen_answers=tuple(itertools.compress(case.seen_answers, fitting)),
            )
        probes = tuple(p for p in case.probes if fits("probe", p.query, p.old, p.new))
        if edit is not None or probes:
            kept.append(replace(case, probes=probes))
    return kept, left_out


def _ask(
    lm: LanguageModel, probes: Iterable[tuple[Probe, int]], changed: Changed | None = None
) -> _Answers:
    """Ask every distinct question once."""
    questions: dict[Question, None] = {}
    sentences: dict[Sentence, None] = {}
    for probe, edit in probes:
        if probe.kind == "sentence":
            sentences |= dict.fromkeys((Sentence(probe.old, edit), Sentence(probe.new, edit)))
        else:
            questions[Question(probe.query, probe.old, probe.new, edit)] = None
    return _Answers(
        dict(zip(questions, ask(lm, list(questions), changed), strict=True)),
        dict(zip(sentences, score_sentences(lm, list(sentences), changed), strict=True)),
    )


def _row(probe: Probe, answers: _Answers, edit: int) -> Record:
    row: Record = {
        "kind": probe.kind,
        "group": probe.group,
        "prefix": probe.query.prefix,
        "suffix": probe.query.suffix,
        "subject": probe.query.subject_text,
        "old": probe.old,
        "new": probe.new,
        "failure": "",
    }
    if probe.kind == "sentence":
        for time, state in (("pre", 0), ("post", edit)):
            old, new = (answers.sentences[Sentence(s, state)] for s in (probe.old, probe.new))
            row |= _readings(time, old, new, "")
        return {**row, "old_ids": list(old.ids), "new_ids": list(new.ids), "kl": float("nan")}
    question = Question(probe.query, probe.old, probe.new)
    pre, post = answers.replies[question], answers.replies[question._replace(edit=edit)]
    row |= {"old_ids": list(pre.old.ids), "new_ids": list(pre.new.ids)}
    row |= _readings("pre", pre.old, pre.new, pre.answer)
    row |= _readings("post", post.old, post.new, post.answer)
    return {**row, "kl": _kl(pre.first_log_probs, post.first_log_probs)}


def _readings(time: str, old: TargetScore, new: TargetScore, answer: str) -> Record:
    return {
        f"{time}_answer": answer,
        f"{time}_margin": new.log_prob - old.log_prob,
        **{
            f"{time}_{name}_{which}": getattr(score, attribute)
            for which, score in (("old", old), ("new", new))
            for name, attribute in (
                ("log_prob", "log_prob"),
                ("exact", "exact"),
                ("argmax", "argmax"),
                ("token", "token_share"),
            )
        },
    }


def _kl(pre: torch.Tensor, post: torch.Tensor) -> float:
    """KL(pre || post) in nats; rounding below zero is cut off."""
    return max(0.0, float(torch.nn.functional.kl_div(post, pre, log_target=True, reduction="sum")))
