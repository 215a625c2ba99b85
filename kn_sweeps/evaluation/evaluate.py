"""Edits x probes -> rows: what the model says before and after each edit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch

from kn_sweeps.cases import Case, Intent, Probe
from kn_sweeps.edits import Edit, is_identity
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
from kn_sweeps.plans import Plan
from kn_sweeps.progress.counting import counting
from kn_sweeps.row import Row


class _Said(NamedTuple):
    """What a model says to a probe: how it rates both answers, and its own.

    `first_log_probs` are those of a question's answer; a sentence has none.
    """

    old: TargetScore
    new: TargetScore
    answer: str = ""
    first_log_probs: torch.Tensor | None = None


@dataclass(frozen=True)
class _Answers:
    """Replies to questions and scores of sentences; each says under which edit."""

    replies: Mapping[Question, Reply]
    sentences: Mapping[Sentence, TargetScore]

    def of(self, probe: Probe, edit: Edit | None) -> _Said:
        """What was said to a probe under an edit."""
        if probe.kind == "sentence":
            old, new = (self.sentences[Sentence(text, edit)] for text in (probe.old, probe.new))
            return _Said(old, new)
        reply = self.replies[Question(probe.query, probe.old, probe.new, edit)]
        return _Said(reply.old, reply.new, reply.answer, reply.first_log_probs)


def evaluate(
    lm: LanguageModel,
    cases: Sequence[Case],
    plan: Plan,
    intent: Intent,
    *,
    step: int = 0,
    after: Literal["edit", "all"] = "edit",
) -> list[Row]:
    """Ask every probe of every case before and after its edit.

    Probes of all edits share batches; each row of a batch has its own edit.

    Args:
        lm: The model, unchanged; it is unchanged again on return.
        cases: Cases whose probes can be tokenised (see `selection.scorable`).
        plan: Their edits.
        intent: What the edits are for.
        step: What rows say of the edits that are in effect.
        after: What rows say of when they were asked: after their own edit, or after all of a
            sequence.

    Returns:
        One row a probe, in the order of the cases. A case whose edit failed has one row of kind
        `failed`.
    """
    # What plainly changes nothing is not asked again: no edit, no change, not even of rounding.
    edits = {name: None if is_identity(edit) else edit for name, edit in plan.edits.items()}
    asked = {
        case.id: [(probe, edits[plan.edit_of[case.id]]) for probe in case.all_probes]
        for case in cases
        if case.id not in plan.failed
    }
    probes = [pair for some in asked.values() for pair in some]
    with counting("round of questions", 2) as tell:
        before = _ask(lm, [(probe, None) for probe, _ in probes])
        tell(1)
        edited = [(probe, edit) for probe, edit in probes if edit is not None]
        then = _ask(lm, edited, partial(applied_rowwise, lm))
    answers = _Answers({**before.replies, **then.replies}, {**before.sentences, **then.sentences})
    rows: list[Row] = []
    for case in cases:
        about: Row = {
            "case": case.id,
            "edit": plan.edit_of.get(case.id, case.id),
            "source": case.source,
            "task": case.task,
            "intent": intent,
            "after": after,
            "step": step,
            "probe": 0,
            "kind": "failed",
            "failure": plan.failed.get(case.id, ""),
        }
        if case.id in plan.failed:
            rows.append(about)
            continue
        for n, (probe, edit) in enumerate(asked[case.id]):
            row: Row = {**about, "probe": n, "kind": probe.kind}
            rows.append(_scored(row, probe, answers.of(probe, None), answers.of(probe, edit)))
    return rows


def _ask(
    lm: LanguageModel, probes: Iterable[tuple[Probe, Edit | None]], changed: Changed | None = None
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


def _scored(row: Row, probe: Probe, pre: _Said, post: _Said) -> Row:
    """A row with its probe, and what was said to it before and after."""
    return {
        **row,
        "group": probe.group,
        "prefix": probe.query.prefix,
        "suffix": probe.query.suffix,
        "subject": probe.query.subject_text,
        "old": probe.old,
        "new": probe.new,
        "old_ids": list(pre.old.ids),
        "new_ids": list(pre.new.ids),
        "pre_answer": pre.answer,
        "pre_margin": pre.new.log_prob - pre.old.log_prob,
        "pre_log_prob_old": pre.old.log_prob,
        "pre_exact_old": pre.old.exact,
        "pre_argmax_old": pre.old.argmax,
        "pre_token_old": pre.old.token_share,
        "pre_log_prob_new": pre.new.log_prob,
        "pre_exact_new": pre.new.exact,
        "pre_argmax_new": pre.new.argmax,
        "pre_token_new": pre.new.token_share,
        "post_answer": post.answer,
        "post_margin": post.new.log_prob - post.old.log_prob,
        "post_log_prob_old": post.old.log_prob,
        "post_exact_old": post.old.exact,
        "post_argmax_old": post.old.argmax,
        "post_token_old": post.old.token_share,
        "post_log_prob_new": post.new.log_prob,
        "post_exact_new": post.new.exact,
        "post_argmax_new": post.new.argmax,
        "post_token_new": post.new.token_share,
        "kl": _kl(pre.first_log_probs, post.first_log_probs),
    }


def _kl(pre: torch.Tensor | None, post: torch.Tensor | None) -> float:
    """KL(pre || post) in nats; rounding below zero is cut off. NaN where nothing is answered."""
    if pre is None or post is None:
        return float("nan")
    return max(0.0, float(torch.nn.functional.kl_div(post, pre, log_target=True, reduction="sum")))
