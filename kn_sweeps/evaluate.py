"""Edits x probes -> rows: what the model says before and after each edit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kn_sweeps.cases import Case, Intent, Probe, Query
from kn_sweeps.interventions import applied
from kn_sweeps.methods.base import Plan
from kn_sweeps.models.language_model import LanguageModel, Reply, TargetScore
from kn_sweeps.models.tokenization import UnscorableError

Question = tuple[Query, str, str]
Record = dict[str, Any]


@dataclass(frozen=True)
class _Answers:
    """Replies to questions and scores of sentences, in one state of the model."""

    replies: Mapping[Question, Reply]
    sentences: Mapping[str, TargetScore]


def evaluate(lm: LanguageModel, cases: Sequence[Case], plan: Plan, intent: Intent) -> list[Record]:
    """Ask every probe of every case before and after its edit.

    Args:
        lm: The model, unchanged; it is unchanged again on return.
        cases: Cases whose probes can be tokenised (see `scorable`).
        plan: Their edits.
        intent: What the edits are for.

    Returns:
        One row a probe, in the order of the cases; the columns are those of docs/metrics.md.
        Log-probabilities are in nats, KL is KL(pre || post) of the answer's first token.
    """
    by_edit: dict[str, list[Case]] = {}
    for case in cases:
        by_edit.setdefault(plan.edit_of[case.id], []).append(case)
    rows: dict[str, list[Record]] = {}
    for name, members in by_edit.items():
        probes = [probe for case in members for probe in case.all_probes]
        # The same batches before and after, so that rounding is the same: no edit, no change.
        before = _ask(lm, probes)
        with applied(lm, plan.edits[name]):
            after = _ask(lm, probes)
        for case in members:
            about = {"case": case.id, "edit": name, "source": case.source, "task": case.task}
            rows[case.id] = [
                {**about, "intent": intent, "probe": n, **_row(probe, before, after)}
                for n, probe in enumerate(case.all_probes)
            ]
    return [row for case in cases for row in rows[case.id]]


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
            seen = tuple(q for q in case.seen if fits("prompt", q, edit.old, edit.new))
        probes = tuple(p for p in case.probes if fits("probe", p.query, p.old, p.new))
        if edit is not None:
            kept.append(replace(case, seen=seen, probes=probes))
        elif probes:
            kept.append(replace(case, probes=probes))
    return kept, left_out


def _ask(lm: LanguageModel, probes: Sequence[Probe]) -> _Answers:
    """Ask every distinct question once."""
    sentences = [text for p in probes if p.kind == "sentence" for text in (p.old, p.new)]
    asked = list(dict.fromkeys((p.query, p.old, p.new) for p in probes if p.kind != "sentence"))
    texts = list(dict.fromkeys(sentences))
    return _Answers(
        dict(zip(asked, lm.ask(asked), strict=True)),
        dict(zip(texts, lm.score_sentences(texts), strict=True)),
    )


def _row(probe: Probe, before: _Answers, after: _Answers) -> Record:
    row: Record = {
        "kind": probe.kind,
        "group": probe.group,
        "prefix": probe.query.prefix,
        "suffix": probe.query.suffix,
        "subject": probe.query.subject_text,
        "old": probe.old,
        "new": probe.new,
    }
    if probe.kind == "sentence":
        for time, answers in (("pre", before), ("post", after)):
            old, new = answers.sentences[probe.old], answers.sentences[probe.new]
            row |= _readings(time, old, new, "")
        return {**row, "old_ids": list(old.ids), "new_ids": list(new.ids), "kl": float("nan")}
    question = (probe.query, probe.old, probe.new)
    pre, post = before.replies[question], after.replies[question]
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
