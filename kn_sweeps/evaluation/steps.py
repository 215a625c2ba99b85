"""The steps of a run: planned, scored and saved one after the other; a run goes on behind them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from kn_sweeps.cases import Case
from kn_sweeps.config import RunConfig
from kn_sweeps.edits import Edit
from kn_sweeps.evaluation.regimes import Record, Steps, after_all, scored, scored_after_all
from kn_sweeps.measurements.base import Measure
from kn_sweeps.methods.base import Method
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.plans import NOTHING, Plan
from kn_sweeps.progress.counting import counted
from kn_sweeps.progress.interruption import check
from kn_sweeps.records.naming import headline
from kn_sweeps.records.run_directory import RunDirectory

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """What a run in progress needs to know at every step.

    Attributes:
        settings: The run's.
        config: The same, as it was composed.
        directory: Where its results go.
        by: Which launch asked for it, and with which code it is computed.
        told: Is told how many cases of how many are done.
        step_s: Seconds a step should take at most.
    """

    settings: RunConfig
    config: Mapping[str, Any]
    directory: RunDirectory
    by: Mapping[str, Any]
    told: Callable[[int, int], None]
    step_s: float


def edit_and_evaluate(
    job: Job, lm: LanguageModel, cases: Sequence[Case], measures: Mapping[str, Measure]
) -> int:
    """Do every step that is not there yet; give the number of chunks that make the run."""
    method, regime, directory = job.settings.method, job.settings.regime, job.directory
    _say_what_is_there(job, len(cases))
    method.prepare(lm, job.settings.seed)
    todo = Steps(method, cases, regime, job.settings.edits_per_batch, job.step_s)
    earlier: dict[str, Edit] = {}
    number = 0
    with tqdm(total=len(cases), unit="case", desc=headline(job.config), disable=None) as bar:
        while todo:
            start = todo.taken
            step = _next_step(directory, todo, number)
            if directory.chunk(number) is None:
                compute = partial(
                    scored,
                    lm,
                    method,
                    step,
                    seed=job.settings.seed,
                    regime=regime,
                    before=list(earlier.values()),
                )
                _add_chunk(job, number, (start, step), lm, compute, measures)
            if regime == "sequential":
                earlier |= directory.chunk_edits(number)
            number += 1
            bar.update(len(step))
            job.told(todo.taken, len(cases))
    if regime == "sequential":
        for rest in counted(after_all(method, cases, earlier), "round after all edits"):
            if directory.chunk(number) is None:
                compute = partial(_after_all, lm, method, rest, earlier)
                _add_chunk(job, number, (len(cases), rest), lm, compute, {})
            number += 1
    return number


def _next_step(directory: RunDirectory, todo: Steps, number: int) -> list[Case]:
    """The cases of step `number`: those of its chunk where it is there."""
    known = directory.chunk(number)
    following = directory.chunk(number + 1)
    if (known and known["start"] != todo.taken) or (
        known is None and following and following["start"] <= todo.taken
    ):
        # Cut otherwise before what was damaged was computed again.
        directory.forget_from(number)
        known = following = None
    if known is not None:
        return todo.take(known["cases"])
    last = directory.chunk(number - 1) if number else None
    return todo.take(todo.size(number, last, following["start"] if following else None))


def _add_chunk(
    job: Job,
    number: int,
    cases: tuple[int, Sequence[Case]],
    lm: LanguageModel,
    compute: Callable[[], tuple[Plan, list[Record]]],
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
    job.directory.add_chunk(number, rows, plan, found, **about, **job.by)
    check()


def _after_all(
    lm: LanguageModel, method: Method, cases: Sequence[Case], edits: Mapping[str, Edit]
) -> tuple[Plan, list[Record]]:
    return NOTHING, scored_after_all(lm, method, cases, edits)


def _say_what_is_there(job: Job, cases: int) -> None:
    """Say that a run goes on, where it does."""
    there = [one for one in job.directory.chunks() if one["start"] < cases]
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
