"""The steps of a run: planned, scored and saved one after the other; a run goes on behind them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from tqdm import tqdm

from kn_sweeps.cases import Case
from kn_sweeps.config import RunConfig
from kn_sweeps.edits import NO_EDIT, Edit, State, joined
from kn_sweeps.evaluation.checkpoints import Sample, crossed
from kn_sweeps.evaluation.evaluate import Freely
from kn_sweeps.evaluation.regimes import Steps, in_chunks, scored, scored_again, unit
from kn_sweeps.measurements.base import Measure
from kn_sweeps.methods.base import Method
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.plans import NOTHING, Plan
from kn_sweeps.progress.counting import counted
from kn_sweeps.progress.interruption import check
from kn_sweeps.records.chunks import Chunks
from kn_sweeps.records.naming import headline
from kn_sweeps.records.run_directory import RunDirectory
from kn_sweeps.row import Row

log = logging.getLogger(__name__)
T = TypeVar("T")


def _nothing(_done: int, _total: int) -> None:
    pass


@dataclass(frozen=True)
class Job:
    """One run that is to be done: all that is known of it before its model is loaded.

    Attributes:
        settings: The run's.
        config: The same, as it was composed.
        id: The run's id.
        whole: What it has in common with the other shards of one run.
        weights: Which weights the id was made of.
        data: The fingerprint of the data that it was made of.
        directory: Where its results go.
        by: Which launch asked for it, and with which code it is computed.
        step_s: Seconds a step should take at most.
        told: Is told how many cases of how many are done.
    """

    settings: RunConfig
    config: Mapping[str, Any]
    id: str
    whole: str
    weights: str
    data: str
    directory: RunDirectory
    by: Mapping[str, Any]
    step_s: float
    told: Callable[[int, int], None] = _nothing


def edit_and_evaluate(
    job: Job, lm: LanguageModel, cases: Sequence[Case], measures: Mapping[str, Measure]
) -> int:
    """Do every step that is not there yet; give the number of chunks that make the run."""
    method, regime, chunks = job.settings.method, job.settings.regime, job.directory.chunks
    settings = job.settings
    freely = Freely(settings.max_answer_tokens, settings.max_text_tokens, settings.seed)
    _say_what_is_there(job, len(cases))
    method.prepare(lm, job.settings.seed)
    todo = Steps(unit(method), cases, regime, job.settings.edits_per_batch, job.step_s)
    behind = Behind(Sample(settings.evaluate_sample, settings.seed))
    number = step_number = 0
    with tqdm(total=len(cases), unit="case", desc=headline(job.config), disable=None) as bar:
        while todo:
            start = todo.taken
            step = _next_step(chunks, todo, number)
            if chunks.get(number) is None:
                compute = partial(
                    scored,
                    lm,
                    method,
                    step,
                    step=step_number,
                    seed=job.settings.seed,
                    regime=regime,
                    before=behind.so_far,
                    made=behind.made,
                    state=behind.state if regime == "sequential" else None,
                    freely=freely,
                )
                _add_chunk(job, number, (start, step), lm, compute, measures)
            number += 1
            if regime == "sequential":
                before = behind.made
                behind.take(method, step, chunks, number - 1)
                if crossed(settings.evaluate_every, before, behind.made):
                    again = partial(_again, lm, method, behind, step_number, freely, "checkpoint")
                    some = in_chunks(method, behind.sample.cases())
                    number = _scored_again(job, number, len(cases), lm, some, again)
            step_number += 1
            bar.update(len(step))
            job.told(todo.taken, len(cases))
    if regime == "sequential":
        again = partial(_again, lm, method, behind, step_number - 1, freely, "all")
        rest = counted(in_chunks(method, behind.edited), "round after all edits")
        number = _scored_again(job, number, len(cases), lm, rest, again)
    return number


@dataclass
class Behind:
    """What the steps of a sequence leave behind them, always as their chunks have it.

    Attributes:
        sample: Of the cases that are asked at checkpoints.
        so_far: All edits as one, so that the last costs what the first does.
        made: How many they are.
        state: What the method carries.
        edited: The cases that have an edit.
    """

    sample: Sample
    so_far: Edit = NO_EDIT
    made: int = 0
    state: State = field(default_factory=dict)
    edited: list[Case] = field(default_factory=list)

    def take(self, method: Method, cases: Sequence[Case], chunks: Chunks, number: int) -> None:
        """Take the step of some cases, which is in a chunk."""
        edits = chunks.edits(number)
        self.so_far = joined([self.so_far, *edits.values()])
        self.made += len(edits)
        for left in chunks.states(number):
            self.state = method.carried(self.state, left)
        now = [case for case in cases if method.group(case) in edits]
        self.edited += now
        self.sample.add(now)


def _scored_again(
    job: Job,
    number: int,
    start: int,
    lm: LanguageModel,
    chunks: Iterable[Sequence[Case]],
    again: Callable[[Sequence[Case]], tuple[Plan, list[Row]]],
) -> int:
    """Add chunks from `number` on that are no steps; give the number behind them."""
    for cases in chunks:
        if job.directory.chunks.get(number) is None:
            _add_chunk(job, number, (start, cases), lm, partial(again, cases), {})
        number += 1
    return number


def _next_step(chunks: Chunks, todo: Steps, number: int) -> list[Case]:
    """The cases of step `number`: those of its chunk where it is there."""
    known = chunks.get(number)
    following = chunks.get(number + 1)
    if (known and known["start"] != todo.taken) or (
        known is None and following and following["start"] <= todo.taken
    ):
        # Cut otherwise before what was damaged was computed again.
        chunks.forget_from(number)
        known = following = None
    if known is not None:
        return todo.take(known["cases"])
    last = chunks.get(number - 1) if number else None
    return todo.take(todo.size(number, last, following["start"] if following else None))


def _add_chunk(
    job: Job,
    number: int,
    cases: tuple[int, Sequence[Case]],
    lm: LanguageModel,
    compute: Callable[[], tuple[Plan, list[Row]]],
    measures: Mapping[str, Measure],
) -> None:
    """Compute a step and save it; `cases` are its own, behind the number of those before it."""
    start, step = cases
    began = time.monotonic()
    plan, rows = _within_memory(lm, compute)
    found = {
        name: _within_memory(lm, partial(measure, step, plan, rows))
        for name, measure in measures.items()
    }
    about = {"start": start, "cases": len(step), "seconds": round(time.monotonic() - began, 3)}
    job.directory.chunks.add(number, rows, plan, found, **about, **job.by)
    check()


def _again(
    lm: LanguageModel,
    method: Method,
    behind: Behind,
    step: int,
    freely: Freely,
    after: Literal["checkpoint", "all"],
    cases: Sequence[Case],
) -> tuple[Plan, list[Row]]:
    made, so_far = behind.made, behind.so_far
    return NOTHING, scored_again(
        lm, method, cases, so_far, after=after, step=step, made=made, freely=freely
    )


def _say_what_is_there(job: Job, cases: int) -> None:
    """Say that a run goes on, where it does."""
    there = [one for one in job.directory.chunks.every() if one["start"] < cases]
    done = sum(one["cases"] for one in there)
    job.told(done, cases)
    if there:
        log.info("goes on: %d of %d cases are there", done, cases)


def _within_memory(lm: LanguageModel, compute: Callable[[], T]) -> T:
    """Compute; where an accelerator's memory runs out, again with half as many rows at once."""
    while True:
        try:
            return compute()
        except torch.OutOfMemoryError:
            if lm.batch_size == 1:
                raise
            lm.halve()
            log.warning("out of memory: going on with batch_size %d", lm.batch_size)
        # Outside the handler, whose traceback would keep the tensors alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
