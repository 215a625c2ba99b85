"""Edits x probes -> rows: what the model says before and after each edit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch

from kn_sweeps.cases import Case, Intent, Probe, Query
from kn_sweeps.edits import Edit, apart, is_identity
from kn_sweeps.interventions import applied_rowwise
from kn_sweeps.models.asking import Question, Sentence, ask, score_sentences
from kn_sweeps.models.generating import Prompt, Writing, write
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.reading import Changed, Reply, TargetScore
from kn_sweeps.models.tokenization import UnscorableError
from kn_sweeps.plans import Plan
from kn_sweeps.progress.counting import counting
from kn_sweeps.row import Row


@dataclass(frozen=True)
class Freely:
    """How far a causal LM writes where it is not told what to rate; a masked LM does not.

    Attributes:
        max_answer_tokens: Of an answer to a question about a fact; None not to ask for it.
        max_text_tokens: Of what it continues.
        seed: Of what it continues, which is sampled from the five likeliest tokens each time.
    """

    max_answer_tokens: int | None = None
    max_text_tokens: int = 100
    seed: int = 0

    def writing(self, case: Case, probe: Probe) -> Writing | None:
        """How the answer to a probe is written; None where it is not."""
        if probe.kind == "continuation":
            return Writing(self.max_text_tokens, stops=False, top_k=5, seed=self.seed)
        if self.max_answer_tokens is None or probe.kind == "sentence" or case.task != "fact":
            return None
        return Writing(self.max_answer_tokens)


ASKED_ONLY = Freely()
"""Questions are rated and answered in as many tokens as their targets have, no further."""


class _Asked(NamedTuple):
    """A probe that is asked, of the model as an edit leaves it."""

    probe: Probe
    writing: Writing | None
    edit: Edit | None


class _Said(NamedTuple):
    """What a model says to a probe: how it rates both answers, and its own.

    `first_log_probs` are those of a question's answer; a sentence has none, a continuation nothing
    but `generated`.
    """

    old: TargetScore | None = None
    new: TargetScore | None = None
    answer: str = ""
    first_log_probs: torch.Tensor | None = None
    rival: TargetScore | None = None
    generated: str | None = None


@dataclass(frozen=True)
class _Answers:
    """Replies to questions, scores of sentences, texts; each says under which edit."""

    replies: Mapping[Question, Reply]
    sentences: Mapping[Sentence, TargetScore]
    texts: Mapping[tuple[Prompt, Writing], str]

    def of(self, asked: _Asked) -> _Said:
        """What was said to a probe under an edit."""
        probe, writing, edit = asked
        if probe.kind == "sentence":
            old, new = (self.sentences[Sentence(text, edit)] for text in (probe.old, probe.new))
            return _Said(old, new)
        generated = None
        if writing is not None:
            generated = self.texts.get((Prompt(probe.query, edit), writing))
        if probe.kind == "continuation":
            return _Said(generated=generated)
        reply = self.replies[_question(probe, edit)]
        return _Said(
            reply.old, reply.new, reply.answer, reply.first_log_probs, reply.rival, generated
        )


def evaluate(
    lm: LanguageModel,
    cases: Sequence[Case],
    plan: Plan,
    intent: Intent,
    *,
    step: int = 0,
    after: Literal["edit", "checkpoint", "all"] = "edit",
    made: int = 0,
    freely: Freely = ASKED_ONLY,
) -> list[Row]:
    """Ask every probe of every case before and after its edit.

    Probes of all edits share batches; each row of a batch has its own edit.

    Args:
        lm: The model, unchanged; it is unchanged again on return.
        cases: Cases whose probes can be tokenised (see `selection.scorable`).
        plan: Their edits.
        intent: What the edits are for.
        step: What rows say of the edits that are in effect.
        after: What rows say of when they were asked: after their own edit, at a checkpoint of a
            sequence, or after all of it.
        made: What rows say of how many edits a sequence had made.
        freely: How far the model answers in its own words.

    Returns:
        One row a probe, in the order of the cases. A case whose edit failed, or that has a probe
        which the model cannot read behind the edit's text, has one row of kind `failed`.
    """
    # What plainly changes nothing is not asked again: no edit, no change, not even of rounding.
    edits = {name: None if is_identity(edit) else edit for name, edit in plan.edits.items()}
    asked = {
        case.id: [
            _Asked(probe, freely.writing(case, probe), edits[plan.edit_of[case.id]])
            for probe in case.all_probes
        ]
        for case in cases
        if case.id not in plan.failed
    }
    failed = {**plan.failed, **_unreadable(lm, asked)}
    asked = {case: some for case, some in asked.items() if case not in failed}
    probes = [one for some in asked.values() for one in some]
    with counting("round of questions", 2) as tell:
        before = _ask(lm, [_before(one) for one in probes])
        tell(1)
        edited = [one for one in probes if one.edit is not None]
        then = _ask(lm, edited, partial(applied_rowwise, lm))
    answers = _Answers(
        {**before.replies, **then.replies},
        {**before.sentences, **then.sentences},
        {**before.texts, **then.texts},
    )
    rows: list[Row] = []
    for case in cases:
        about: Row = {
            "case": case.id,
            "edit": plan.edit_of.get(case.id, case.id),
            "together": case.together,
            "source": case.source,
            "task": case.task,
            "intent": intent,
            "after": after,
            "made": made,
            "step": step,
            "probe": 0,
            "kind": "failed",
            "failure": failed.get(case.id, ""),
        }
        if case.id in failed:
            rows.append(about)
            continue
        for n, one in enumerate(asked[case.id]):
            row: Row = {**about, "probe": n, "kind": one.probe.kind}
            rows.append(_scored(row, one.probe, answers.of(_before(one)), answers.of(one)))
    return rows


def _unreadable(lm: LanguageModel, asked: Mapping[str, Sequence[_Asked]]) -> dict[str, str]:
    """By case, why one of its probes cannot be read behind its edit's text."""
    found: dict[str, str] = {}
    for case, some in asked.items():
        for probe, _, edit in some:
            text, _ = apart(edit)
            try:
                if text and probe.kind == "continuation":
                    lm.encode_open(probe.query, text)
                elif text:
                    query = Query("") if probe.kind == "sentence" else probe.query
                    for target in dict.fromkeys((probe.old, probe.new, probe.rival)):
                        if target:
                            lm.encode(query, target, text)
            except UnscorableError as error:
                found[case] = f"behind the text of its edit: {error}"
                break
    return found


def _before(asked: _Asked) -> _Asked:
    return asked._replace(edit=None)


def _question(probe: Probe, edit: Edit | None) -> Question:
    return Question(probe.query, probe.old, probe.new, edit, probe.rival)


def _ask(lm: LanguageModel, probes: Iterable[_Asked], changed: Changed | None = None) -> _Answers:
    """Ask every distinct question once."""
    questions: dict[Question, None] = {}
    sentences: dict[Sentence, None] = {}
    prompts: dict[Writing, dict[Prompt, None]] = defaultdict(dict)
    for probe, writing, edit in probes:
        if probe.kind == "sentence":
            sentences |= dict.fromkeys((Sentence(probe.old, edit), Sentence(probe.new, edit)))
        elif probe.kind != "continuation":
            questions[_question(probe, edit)] = None
        if writing is not None and lm.kind == "causal":
            prompts[writing][Prompt(probe.query, edit)] = None
    return _Answers(
        dict(zip(questions, ask(lm, list(questions), changed), strict=True)),
        dict(zip(sentences, score_sentences(lm, list(sentences), changed), strict=True)),
        {
            (prompt, writing): text
            for writing, some in prompts.items()
            for prompt, text in zip(some, write(lm, list(some), writing, changed), strict=True)
        },
    )


def _scored(row: Row, probe: Probe, pre: _Said, post: _Said) -> Row:
    """A row with its probe, and what was said to it before and after."""
    row = {
        **row,
        "group": probe.group,
        "prefix": probe.query.prefix,
        "suffix": probe.query.suffix,
        "subject": probe.query.subject_text,
        "old": probe.old,
        "new": probe.new,
        "old_given": probe.old_given,
        "old_aliases": list(probe.old_aliases),
        "new_aliases": list(probe.new_aliases),
        "rival": probe.rival,
    }
    if pre.generated is not None and post.generated is not None:
        row |= {"pre_generated": pre.generated, "post_generated": post.generated}
    if pre.old is None or pre.new is None or post.old is None or post.new is None:
        return row
    if pre.rival is not None and post.rival is not None:
        row |= {
            "rival_ids": list(pre.rival.ids),
            "pre_log_prob_rival": pre.rival.log_prob,
            "post_log_prob_rival": post.rival.log_prob,
        }
    return {
        **row,
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
        "token_kept": _share_kept(pre.old, post.old),
        "kl": _kl(pre.first_log_probs, post.first_log_probs),
    }


def _share_kept(pre: TargetScore, post: TargetScore) -> float:
    """Share of a target's tokens whose argmax is the same before and after.

    NaN where a text before them makes them other tokens, as it may of a text's first word.
    """
    if pre.ids != post.ids:
        return float("nan")
    return sum(a == b for a, b in zip(pre.best, post.best, strict=True)) / len(pre.best)


def _kl(pre: torch.Tensor | None, post: torch.Tensor | None) -> float:
    """KL(pre || post) in nats, rounding below zero cut off; NaN without both answers."""
    if pre is None or post is None:
        return float("nan")
    found = torch.nn.functional.kl_div(post, pre, log_target=True, reduction="sum")
    return float(found.clamp(min=0.0))  # which leaves NaN as it is
