"""Where data do not say what the old answer is: the unedited model's own is taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.models.asking import Question, ask
from kn_sweeps.models.generating import Prompt, Writing, write
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import UnscorableError

_TO_THE_END_OF_A_WORD = 8
"""Tokens that the last word of an answer may have beyond those that count."""

Answers = dict[tuple[Query, str], str]
"""By what is asked, and the answer that tells how long one is."""


def with_own_answers(lm: LanguageModel, cases: Iterable[Case]) -> list[Case]:
    """The same cases, with the unedited model's greedy answer wherever `old` is empty.

    It has as many tokens as the edit's `new`, and ends with a whole word. Rephrased prompts have
    the answer to the edit's own. Where the model cannot be asked or has no answer, `old` stays
    empty, which `selection.scorable` refuses.

    Args:
        lm: The model, unedited.
        cases: In their order.
    """
    every = list(cases)
    wanted = {key: None for case in every for key in _unanswered(case)}
    answers = _answered(lm, list(wanted)) if wanted else {}
    return [_filled(case, answers) for case in every]


def _length(case: Case, probe: Probe) -> str:
    """The answer that tells how long one is."""
    return probe.new or (case.edit.new if case.edit is not None else "")


def _asks_for_old(probe: Probe) -> bool:
    return not probe.old and probe.kind not in ("sentence", "continuation")


def _unanswered(case: Case) -> Iterator[tuple[Query, str]]:
    for probe in case.all_probes:
        if _asks_for_old(probe) and probe.kind != "rephrase":
            yield probe.query, _length(case, probe)


def _filled(case: Case, answers: Answers) -> Case:
    def of(probe: Probe) -> Probe:
        if not _asks_for_old(probe):
            return probe
        if probe.kind == "rephrase" and edit is not None:
            return replace(probe, old=edit.old, old_given=False)
        own = answers.get((probe.query, _length(case, probe)), "")
        return replace(probe, old=own, new=probe.new or own, old_given=False)

    edit = case.edit
    if edit is not None:
        edit = of(edit)
    return replace(case, edit=edit, probes=tuple(map(of, case.probes)))


def _answered(lm: LanguageModel, wanted: list[tuple[Query, str]]) -> Answers:
    sizes: dict[tuple[Query, str], int] = {}
    for query, like in wanted:
        try:
            sizes[query, like] = len(lm.encode(query, like).target_ids)
        except UnscorableError:
            continue  # `scorable` says why
    keys = list(sizes)
    if lm.kind == "masked":
        replies = ask(lm, [Question(query, like, like) for query, like in keys])
        return {key: reply.answer for key, reply in zip(keys, replies, strict=True)}
    longest = max(sizes.values(), default=0) + _TO_THE_END_OF_A_WORD
    texts = write(lm, [Prompt(query) for query, _ in keys], Writing(longest))
    return {
        key: _words(lm, key[0], text, sizes[key]) for key, text in zip(keys, texts, strict=True)
    }


def _words(lm: LanguageModel, query: Query, text: str, tokens: int) -> str:
    """The first words of a text that together have so many tokens, or all of it."""
    words = text.split()
    for count in range(1, len(words)):
        some = " ".join(words[:count]).rstrip(".,;:!?")
        if some and len(lm.encode(query, some).target_ids) >= tokens:
            return some
    return " ".join(words).rstrip(".,;:!?")
