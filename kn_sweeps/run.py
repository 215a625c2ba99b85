"""One run: config in, rows on disk out.

Read this page first. A run loads a model and cases, lets the method plan edits for some cases at
a time (`regimes`), asks every probe before and after, saves that chunk, and when all are there
computes metrics and writes the summary that marks it as done. A run that was cut off continues
at its first chunk without rows. What is damaged is moved aside and computed again (`integrity`).
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from kn_sweeps.attribution.cache import AttributionCache, attributions_kept
from kn_sweeps.cases import Case, LeftOut, LMKind
from kn_sweeps.config import SCHEMA_VERSION, RunConfig, at_home, build, pinned, run_id
from kn_sweeps.evaluation.evaluate import scorable
from kn_sweeps.evaluation.regimes import STEP_S
from kn_sweeps.evaluation.steps import Job, edit_and_evaluate
from kn_sweeps.metrics.localisation import certificates, layer_histogram, rounded
from kn_sweeps.models.checkpoints import Described, DType
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.loading import Model, load_model
from kn_sweeps.possible import refuse_impossible
from kn_sweeps.progress.interruption import check
from kn_sweeps.progress.pace import shown
from kn_sweeps.records.cache import cache_directory
from kn_sweeps.records.files import write_json, write_text
from kn_sweeps.records.folders import sweep_folder
from kn_sweeps.records.integrity import DamagedError, quarantined
from kn_sweeps.records.naming import asked_for, module_name
from kn_sweeps.records.provenance import Stages, code, commit, environment
from kn_sweeps.records.results import measured, metric_hashes, results_of, shown_otherwise
from kn_sweeps.records.run_directory import RunDirectory
from kn_sweeps.records.status import launch_id, reported

log = logging.getLogger(__name__)
T = TypeVar("T")


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
    config = at_home(config)
    settings: RunConfig = build(config, RunConfig)
    by: dict[str, Any] = {"code": code(config)}
    config, model = pinned(config, settings.model)
    settings = replace(settings, model=model)
    refuse_impossible(settings, model.described())
    fingerprint = settings.dataset.fingerprint()
    weights = model.fingerprint()
    identity = run_id(config, weights, fingerprint)
    if planned not in (None, identity):
        raise ValueError(
            f"the data or the weights are not those of when run {planned} was planned: now this is "
            f"run {identity}. Launch it again to compute it with what is there now"
        )
    # Shards of one run have this in common.
    whole = run_id({**config, "shard": "0/1"}, weights, fingerprint)
    directory = RunDirectory(sweep_folder(settings.results_dir, settings.sweep) / identity)
    since = launch if settings.rerun else None
    by["launch"] = launch or launch_id(directory.path.parent)
    with directory.opened(), _logged_to(directory.path / "run.log"):
        if settings.rerun:
            directory.forget_chunks(since)
        fresh = settings.rerun and since is None
        if not fresh and directory.done(since) and directory.whole(thorough=True):
            return _rescored(settings, config, directory, by)
        log.info("run %s: %s", identity, asked_for(config, name))
        with reported(directory.path, by["launch"]) as progress, shown(progress.within):
            _write_config(directory.path / "config.yaml", config)
            settings.tracker.follow(directory.path)
            job = Job(settings, config, directory, by, progress.cases, step_s)
            summary = _compute(job, whole, fingerprint, partial(_loaded, load, weights))
        return Outcome(directory.path, summary, computed=True)


def _loaded(
    load: Load, weights: str, model: Model, where: torch.device, dtype: DType
) -> LanguageModel:
    """Load the model that the run's id was made of."""
    lm = load(model, where, dtype)
    if lm.revision != weights:
        raise ValueError(
            f"model {model.label} changed since the run was named: it was {weights} and is "
            f"{lm.revision}; run the same command again"
        )
    return lm


def _compute(job: Job, whole: str, fingerprint: str, load: Load) -> dict[str, Any]:
    """Compute what is missing, write every file, and mark the run as done."""
    settings, directory = job.settings, job.directory
    stages = Stages()
    with stages.stage("load model"):
        lm = load(settings.model, device(settings.device), settings.dtype)
        lm.batch_size = settings.batch_size
    # Now it is known also where the config was not at hand.
    refuse_impossible(settings, Described(lm.kind, lm.architecture.layers))
    check()
    with stages.stage("load cases"):
        cases, every, source = _cases(settings, lm)
        measures = {
            name: one.begin(lm, every, settings.seed) for name, one in settings.measurement.items()
        }
    with stages.stage("edit and evaluate"), attributions_kept(_cache(settings)):
        chunks = edit_and_evaluate(job, lm, cases, measures)
    failed = directory.failed(chunks)
    if len(failed) == len(cases):
        directory.forget_chunks()
        job.told(0, len(cases))
        raise ValueError(f"no case could be edited: {next(iter(failed.values()))}")
    provenance = {
        **_code(directory),
        **environment(),
        "model_revision": lm.revision,
        "data_source": source,
        "data_fingerprint": fingerprint,
        "seed": settings.seed,
        "device": str(lm.device),
        "dtype": settings.dtype,
        "steps": [one["cases"] for one in directory.chunks()],
    }
    with stages.stage("metrics"):
        directory.join_chunks(chunks, int(settings.keep_edits_gib * 1024**3), measures)
        metrics = measured(settings.metric.values(), results_of(directory))
    write_json(directory.path / "provenance.json", {**provenance, "stages": stages.records})
    summary = {
        **_identity(settings, job.config, directory),
        "launch": job.by["launch"],
        "whole_run": whole,
        "source": source,
        "cases": len(cases),
        "failed": len(failed),
        "metrics": metrics,
        "metric_configs": metric_hashes(job.config),
    }
    if failed:
        log.warning(
            "%d of %d cases could not be edited, such as: %s",
            len(failed),
            len(cases),
            next(iter(failed.values())),
        )
    if located := directory.located():
        summary["neurons_by_layer"] = layer_histogram(located, lm.architecture.layers).tolist()
        residuals, uncertified = certificates(located)
        if uncertified:
            log.warning(
                "%.1f %% of %d attributed layers are not certified: their residual or estimated "
                "error is above the tolerance or, with a fixed quadrature, not known; %d of them "
                "for the rounding of %s alone (neurons.json lists them)",
                100 * uncertified / len(residuals),
                len(residuals),
                rounded(located),
                settings.dtype,
            )
    directory.finish(summary)
    log.info("done: %s (%s)", directory.path, _headline_metrics(metrics))
    return summary


def _code(directory: RunDirectory) -> dict[str, Any]:
    """By which code the chunks of a run were computed: the last one's, and all where they differ.

    Returns:
        `commit`, the last; `dirty`, whether any was; and `commits`, each of them once.
    """
    every = [one["code"] for one in directory.chunks()]
    codes = [one for n, one in enumerate(every) if one not in every[:n]]
    if len(codes) > 1:
        shown = (f"{one['commit']}{' (changed)' if one['dirty'] else ''}" for one in codes)
        log.warning("this run was computed by more than one commit: %s", ", ".join(shown))
    dirty = None if codes[-1]["dirty"] is None else any(one["dirty"] for one in codes)
    return {**codes[-1], "dirty": dirty, "commits": codes}


def device(name: str) -> torch.device:
    """The device of a config.

    Raises:
        ValueError: If CUDA is asked for and absent.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but no CUDA device is available; use device=cpu or auto")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _cache(settings: RunConfig) -> AttributionCache | None:
    if settings.attribution_cache_gib <= 0:
        return None
    size = int(settings.attribution_cache_gib * 1024**3)
    return AttributionCache(cache_directory("attributions"), size)


def _identity(
    settings: RunConfig, config: Mapping[str, Any], directory: RunDirectory
) -> dict[str, Any]:
    """What a table needs to tell this run from others."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": directory.path.name,
        "sweep": settings.sweep,
        "model": settings.model.label,
        "dataset": module_name(config["dataset"]),
        "method": module_name(config["method"]),
        "of": module_name(config["method"]["of"]) if "of" in config["method"] else None,
        "intent": settings.method.intent,
        "regime": settings.regime,
        "seed": settings.seed,
        "shard": settings.shard,
    }


def _cases(settings: RunConfig, lm: LanguageModel) -> tuple[list[Case], list[Case], str]:
    """This shard's cases and those of all, with what was left out in the log."""
    kind: LMKind = lm.kind
    loaded = settings.dataset.load(
        kind, seed=settings.seed, limit=settings.limit, editable=settings.method.changes
    )
    for report in loaded.left_out:
        log.debug("%s", report)
    in_total = _in_total(loaded.left_out)
    log.info("%s", in_total)
    if in_total.noted:
        log.warning("the data: %s", in_total.noted)
    index, count = settings.shard_of()
    # Whole groups go to one shard, so that an edit is the same whatever the number of shards.
    groups = {g: n for n, g in enumerate(dict.fromkeys(map(settings.method.group, loaded.cases)))}
    every, unscorable = scorable(lm, loaded.cases)
    cases = [c for c in every if groups[settings.method.group(c)] % count == index]
    for reason, messages in unscorable.items():
        log.warning("%d left out, %s (such as: %s)", len(messages), reason, messages[0])
    if not cases:
        reasons = [f"{n} {why}" for why, n in in_total.reasons.items()]
        reasons += [f"{len(some)} {why} (such as: {some[0]})" for why, some in unscorable.items()]
        raise ValueError(
            f"no case is left for {lm.name}, shard {settings.shard}: "
            f"{'; '.join(reasons) or 'the dataset has none'}"
        )
    return cases, every, loaded.source


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


def _rescored(
    settings: RunConfig, config: Mapping[str, Any], directory: RunDirectory, by: Mapping[str, Any]
) -> Outcome:
    """A finished run, with the metrics and the tracker that are asked for now.

    Metrics it does not have yet are computed from its rows and added.
    """
    summary = directory.summary()
    known, wanted = summary["metric_configs"], metric_hashes(config)
    new = [name for name in wanted if known.get(name) != wanted[name]]
    log.info("already done: %s%s", directory.path, f"; scored {', '.join(new)}" if new else "")
    before = _config_of(directory, config)
    settings.tracker.follow(directory.path)
    if shown_otherwise(before, config):
        before["tracker"] = config["tracker"]
        _write_config(directory.path / "config.yaml", before)
    if new:
        metrics = measured([settings.metric[name] for name in new], results_of(directory))
        summary["metrics"] |= metrics
        summary["metric_configs"] |= wanted
        # Metrics may be those of other code than the rows: provenance.json is that of the rows.
        summary["scored_by"] = summary.get("scored_by", {}) | dict.fromkeys(metrics, by["code"])
        both = {**before, "metric": before["metric"] | config["metric"]}
        _write_config(directory.path / "config.yaml", both)
        directory.finish(summary)
    return Outcome(directory.path, summary, computed=False)


def _config_of(directory: RunDirectory, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config a run was done with; `config`, which has its id, where that cannot be read."""
    path = directory.path / "config.yaml"
    try:
        before = OmegaConf.to_container(OmegaConf.load(path))
        if isinstance(before, dict) and {"metric", "tracker"} <= before.keys():
            return {str(key): value for key, value in before.items()}
        raise ValueError(f"it has no metric or no tracker: {str(before)[:80]}")
    except FileNotFoundError:
        pass
    except (ValueError, YAMLError, OmegaConfBaseException) as error:
        quarantined(DamagedError(path, str(error)), "it is written again")
    return dict(config)


def _headline_metrics(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    shown = ("reliability", "generality", "locality", "pair_accuracy")
    known = {name: metrics[name]["value"] for name in shown if name in metrics}
    return ", ".join(f"{name} {value:.2f}" for name, value in known.items() if value is not None)


def _write_config(path: Path, config: Mapping[str, Any]) -> None:
    write_text(path, OmegaConf.to_yaml(OmegaConf.create(dict(config))))


class _RunLog(logging.FileHandler):
    """A log that a full disk cuts short without a word: the run's own error has it."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing, of an error of the system."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close it, though what is left cannot be written."""
        with suppress(OSError):
            super().close()


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """Append the package's log to a file, with the traceback of what ends the block."""
    handler = _RunLog(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package = logging.getLogger("kn_sweeps")
    package.addHandler(handler)
    try:
        yield
    except BaseException:
        # To the file only: the console gets one message from whoever called.
        error = sys.exc_info()
        handler.handle(log.makeRecord(log.name, logging.ERROR, "", 0, "ended early", (), error))
        raise
    finally:
        package.removeHandler(handler)
        handler.close()
