"""Which cases a run is about: those of its shard that the model's tokenizer can put together."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from kn_sweeps.cases import Case, LeftOut, Probe, Query, with_fellows
from kn_sweeps.config import RunConfig
from kn_sweeps.evaluation.own_answers import with_own_answers
from kn_sweeps.evaluation.regimes import unit
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import UnscorableError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """The cases of a run.

    Attributes:
        own: This shard's.
        every: Those of all shards.
        source: Where the data come from.
    """

    own: list[Case]
    every: list[Case]
    source: str


def selected(settings: RunConfig, lm: LanguageModel) -> Selection:
    """Load a run's cases, and say what is left out in the log.

    Raises:
        ValueError: If none is left, with the reasons.
    """
    loaded = settings.dataset.load(
        lm.kind, seed=settings.seed, limit=settings.limit, editable=settings.method.changes
    )
    for report in loaded.left_out:
        log.debug("%s", report)
    in_total = _in_total(loaded.left_out)
    log.info("%s", in_total)
    if in_total.noted:
        log.warning("the data: %s", in_total.noted)
    index, count = settings.shard_of()
    # Whole groups go to one shard, so that an edit is the same whatever the number of shards.
    group = unit(settings.method)
    groups = {g: n for n, g in enumerate(dict.fromkeys(map(group, loaded.cases)))}
    fitting, unscorable = scorable(lm, with_own_answers(lm, loaded.cases))
    # Told here, where the cases of all shards and chunks are together.
    every = with_fellows(fitting)
    cases = [c for c in every if groups[group(c)] % count == index]
    for reason, messages in unscorable.items():
        log.warning("%d left out, %s (such as: %s)", len(messages), reason, messages[0])
    if not cases:
        reasons = [f"{n} {why}" for why, n in in_total.reasons.items()]
        reasons += [f"{len(some)} {why} (such as: {some[0]})" for why, some in unscorable.items()]
        raise ValueError(
            f"no case is left for {lm.name}, shard {settings.shard}: "
            f"{'; '.join(reasons) or 'the dataset has none'}"
        )
    return Selection(cases, every, loaded.source)


def _in_total(reports: Sequence[LeftOut]) -> LeftOut:
    """All relations or paradigms together; run.log has a line for each."""
    reasons: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for report in reports:
        reasons.update(report.reasons)
        notes.update(report.notes)
    used = sum(report.used > 0 for report in reports)
    return LeftOut(
        f"{used} of {len(reports)} sources", sum(r.used for r in reports), reasons, notes
    )


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
            if not targets:
                lm.encode_open(query)
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
        probes = tuple(p for p in case.probes if fits("probe", p.query, *_targets(p)))
        if edit is not None or probes:
            kept.append(replace(case, probes=probes))
    return kept, left_out


def _targets(probe: Probe) -> tuple[str, ...]:
    """What must fit behind a probe's query; a continuation has none."""
    if probe.kind == "continuation":
        return ()
    return (probe.old, probe.new, probe.rival) if probe.rival else (probe.old, probe.new)
