"""One run: config in, rows on disk out.

Read this page first. A run loads a model and cases, lets the method plan edits for some cases at
a time (`regimes`), asks every probe before and after, saves that chunk, and when all are there
computes metrics and writes the summary that marks it as done. A run that was cut off continues
at its first chunk without rows. What is damaged is moved aside and computed again (`integrity`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kn_sweeps.attribution.cache import attributions_kept, users_cache
from kn_sweeps.config import (
    RunConfig,
    at_home,
    build,
    metric_hashes,
    pinned,
    run_id,
    shown_otherwise,
)
from kn_sweeps.evaluation.regimes import STEP_S
from kn_sweeps.evaluation.selection import selected
from kn_sweeps.evaluation.steps import Job, edit_and_evaluate
from kn_sweeps.metrics.base import measured
from kn_sweeps.models.checkpoints import Described, DType
from kn_sweeps.models.devices import mapped
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.loading import Model, device, load_model
from kn_sweeps.possible import refuse_impossible
from kn_sweeps.progress.interruption import check
from kn_sweeps.progress.pace import shown
from kn_sweeps.records.folders import sweep_folder
from kn_sweeps.records.integrity import unless_damaged
from kn_sweeps.records.naming import asked_for
from kn_sweeps.records.provenance import Stages, code, commit, environment, of_chunks
from kn_sweeps.records.run_directory import RunDirectory
from kn_sweeps.records.run_log import logged_to
from kn_sweeps.records.status import launch_id, reported
from kn_sweeps.records.summary import (
    headline_metrics,
    identity,
    located_by_layer,
    protocol,
    untuned_methods,
)
from kn_sweeps.threads import compute_with_threads

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of a run: its directory, its summary and whether anything was computed."""

    directory: Path
    summary: Mapping[str, Any]
    computed: bool


Load = Callable[[Model, torch.device, DType], LanguageModel]


def run(
    config: Mapping[str, Any],
    load: Load = load_model,
    launch: str | None = None,
    name: str = "",
    *,
    planned: str | None = None,
    step_s: float = STEP_S,
) -> Outcome:
    """Do one run, or what is left of it.

    Args:
        config: The resolved config: nested mappings with the fields of `RunConfig`.
        load: Loads the model; `models.last_loaded.LastLoaded` where many runs share one.
        launch: The id of the launch that asked for it: `rerun` computes again what an earlier one
            did, and goes on with what this one or a later one began. None for one from here.
        name: The overrides it was asked for by, for log lines.
        planned: The run id it was planned as.
        step_s: Seconds a step should take at most.

    Raises:
        RunBusyError: If another process works on it.
        ValueError: If the config, the data or the model is not as it should be; the message says
            what was expected.
    """
    commit()  # asked before anything else: it is the code that computes
    job = _job(at_home(config), launch, step_s)
    if planned not in (None, job.id):
        raise ValueError(
            f"the data or the weights are not those of when run {planned} was planned: now this is "
            f"run {job.id}. Launch it again to compute it with what is there now"
        )
    directory, rerun = job.directory, job.settings.rerun
    since = launch if rerun else None
    with directory.opened(), logged_to(directory.log_path):
        if rerun:
            directory.start_over(since)
        again = rerun and since is None
        if not again and directory.done(since) and directory.whole(thorough=True):
            return _rescored(job)
        log.info("run %s: %s", job.id, asked_for(job.config, name))
        for method in untuned_methods(job.config):
            log.warning(
                "the values of %s are untuned for model %s: published by nobody, chosen by no "
                "trial (conf/tuned/%s)",
                *(method, job.settings.model.label, method),
            )
        with reported(directory.path, job.by["launch"]) as progress, shown(progress.within):
            directory.write_config(job.config)
            job.settings.tracker.follow(directory.path)
            summary = _compute(replace(job, told=progress.cases), load)
        return Outcome(directory.path, summary, computed=True)


def _job(config: Mapping[str, Any], launch: str | None, step_s: float) -> Job:
    """What a run is, which takes its config, the weights and the data."""
    settings: RunConfig = build(config, RunConfig)
    model_node, model = pinned(config["model"], settings.model)
    dataset_node, dataset = pinned(config["dataset"], settings.dataset)
    config = {**config, "model": model_node, "dataset": dataset_node}
    settings = replace(settings, model=model, dataset=dataset)
    refuse_impossible(settings, model.described())
    weights, data = model.fingerprint(), dataset.fingerprint()
    own = run_id(config, weights, data)
    sweep = sweep_folder(settings.results_dir, settings.sweep)
    return Job(
        settings=settings,
        config=config,
        id=own,
        whole=run_id({**config, "shard": "0/1"}, weights, data),
        weights=weights,
        data=data,
        directory=RunDirectory(sweep / own),
        by={"code": code(config), "launch": launch or launch_id(sweep)},
        step_s=step_s,
    )


def _compute(job: Job, load: Load) -> dict[str, Any]:
    """Compute what is missing, write every file, and mark the run as done."""
    settings, directory = job.settings, job.directory
    stages = Stages()
    with stages.stage("load model"):
        lm = _loaded(job, load)
    # Now it is known also where the config was not at hand.
    refuse_impossible(settings, Described(lm.kind, lm.architecture.layers))
    check()
    with stages.stage("load cases"):
        cases = selected(settings, lm)
        begun = {
            k: m.begin(lm, cases.every, settings.seed) for k, m in settings.measurement.items()
        }
    cache = users_cache(settings.attribution_cache_gib)
    with stages.stage("edit and evaluate"), attributions_kept(cache):
        chunks = edit_and_evaluate(job, lm, cases.own, begun)
    failed = _failed(job, chunks, len(cases.own))
    provenance = {
        **of_chunks(directory.chunks.every()),
        **environment(),
        "model_revision": lm.revision,
        "data_source": cases.source,
        "data_fingerprint": job.data,
        "data_revision": job.config["dataset"].get("revision"),
        "seed": settings.seed,
        "device": str(lm.device),
        "device_map": mapped(lm.model),
        "dtype": settings.dtype,
    }
    with stages.stage("metrics"):
        directory.join(chunks, int(settings.keep_edits_gib * 1024**3), begun)
        metrics = measured(settings.metric.values(), directory.results())
    directory.write_provenance({**provenance, "stages": stages.records})
    summary = {
        **identity(job.id, settings, job.config),
        "launch": job.by["launch"],
        "whole_run": job.whole,
        "source": cases.source,
        "cases": len(cases.own),
        "failed": failed,
        "metrics": metrics,
        "metric_configs": metric_hashes(job.config),
        **located_by_layer(directory.located(), lm.architecture.layers, settings.dtype),
    }
    directory.finish(summary)
    log.info("done: %s (%s)", directory.path, headline_metrics(metrics))
    return summary


def _loaded(job: Job, load: Load) -> LanguageModel:
    """Load the model that the run's id was made of."""
    settings = job.settings
    lm = load(settings.model, device(settings.device), settings.dtype)
    if lm.revision != job.weights:
        raise ValueError(
            f"model {settings.model.label} changed since the run was named: it was {job.weights} "
            f"and is {lm.revision}; run the same command again"
        )
    lm.batch_size = settings.batch_size
    lm.plan_batches()
    compute_with_threads(lm.model.num_parameters())
    return lm


def _failed(job: Job, chunks: int, cases: int) -> int:
    """How many cases could not be edited, with a word in the log.

    Raises:
        ValueError: If none could.
    """
    failed = job.directory.chunks.failed(chunks)
    example = next(iter(failed.values()), "")
    if len(failed) == cases:
        job.directory.chunks.forget()
        job.told(0, cases)
        raise ValueError(f"no case could be edited: {example}")
    if failed:
        log.warning("%d of %d cases could not be edited, such as: %s", len(failed), cases, example)
    return len(failed)


def _rescored(job: Job) -> Outcome:
    """A finished run, with the metrics and the tracker that are asked for now.

    Metrics it does not have yet are computed from its rows and added.
    """
    settings, config, directory = job.settings, job.config, job.directory
    summary = directory.summary()
    known, wanted = summary["metric_configs"], metric_hashes(config)
    new = [name for name in wanted if known.get(name) != wanted[name]]
    log.info("already done: %s%s", directory.path, f"; scored {', '.join(new)}" if new else "")
    there = unless_damaged(directory.config, "it is written again")
    settings.tracker.follow(directory.path)
    before = {**config} if there is None else {**there}
    if shown_otherwise(before, config):
        before["tracker"] = config["tracker"]
    if new:
        metrics = measured([settings.metric[name] for name in new], directory.results())
        summary["metrics"], summary["metric_configs"] = summary["metrics"] | metrics, known | wanted
        # Metrics may be those of other code than the rows: provenance.json is that of the rows.
        by = dict.fromkeys(metrics, job.by["code"])
        summary["scored_by"] = summary.get("scored_by", {}) | by
        before["metric"] = {**before.get("metric", {}), **config["metric"]}
        judged = bool(directory.verdicts())
        summary["protocol"] = protocol(before, settings.method.intent, judged=judged)
    if before != there:
        directory.write_config(before)
    if new:
        directory.finish(summary)
    return Outcome(directory.path, summary, computed=False)
