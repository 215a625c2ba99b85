"""One run: config in, rows on disk out.

Read this page first. A run loads a model and cases, lets the method plan edits for some cases at
a time (`regimes`), asks every probe before and after, saves that chunk, and when all are there
computes metrics and writes the summary that marks it as done. A run that was cut off continues
at its first chunk without rows.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import OmegaConf
from tqdm import tqdm

from kn_sweeps.attribution.cache import AttributionCache, attributions_kept
from kn_sweeps.caching import cache_directory
from kn_sweeps.cases import Case, LeftOut, LMKind
from kn_sweeps.config import SCHEMA_VERSION, RunConfig, at_home, build, pinned, run_id
from kn_sweeps.edits import Edit
from kn_sweeps.evaluate import scorable
from kn_sweeps.files import write_json, write_text
from kn_sweeps.folders import sweep_folder
from kn_sweeps.interruption import check
from kn_sweeps.measurements.base import Measure
from kn_sweeps.methods.base import NOTHING
from kn_sweeps.metrics.localisation import certificates, layer_histogram, rounded
from kn_sweeps.models.checkpoints import Described
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.loading import DType, Model, load_model
from kn_sweeps.possible import refuse_impossible
from kn_sweeps.progress import reported
from kn_sweeps.provenance import Stages, environment
from kn_sweeps.regimes import after_all, scored, scored_after_all, steps
from kn_sweeps.results import logged_otherwise, measured, metric_hashes, results_of
from kn_sweeps.store import RunDirectory

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
    launched: float | None = None,
    name: str = "",
) -> Outcome:
    """Do one run, or what is left of it.

    Args:
        config: The resolved config: nested mappings with the fields of `RunConfig`.
        load: Loads the model; `models.loading.LastLoaded` where many runs share one.
        launched: When it was asked for: `rerun` computes again what is older, and goes on with
            what is not. None for now.
        name: The overrides it was asked for by, for log lines and the tracker.

    Raises:
        RunBusyError: If another process works on it.
        ValueError: If the config, the data or the model is not as it should be; the message says
            what was expected.
    """
    config = at_home(config)
    settings: RunConfig = build(config, RunConfig)
    config, model = pinned(config, settings.model)
    settings = replace(settings, model=model)
    refuse_impossible(settings, model.described())
    fingerprint = settings.dataset.fingerprint()
    weights = model.fingerprint()
    identity = run_id(config, weights, fingerprint)
    # Shards of one run have this in common.
    whole = run_id({**config, "shard": "0/1"}, weights, fingerprint)
    directory = RunDirectory(sweep_folder(settings.results_dir, settings.sweep) / identity)
    again_before = (launched or time.time()) if settings.rerun else 0.0
    with directory.opened(), _logged_to(directory.path / "run.log"):
        directory.forget_chunks(before=again_before)
        if directory.done(since=again_before):
            return _rescored(settings, config, directory)
        headline = _headline(config, name)
        log.info("run %s: %s", identity, headline)
        with reported(directory.path) as progress:
            _write_config(directory.path / "config.yaml", config)
            with settings.tracker.open(
                identity, headline, settings.sweep, config, directory.path.parent
            ) as report:

                def told(done: int, total: int) -> None:
                    progress.cases(done, total)
                    report.progress(done, total)

                loaded = partial(_loaded, load, weights)
                summary = _compute(settings, config, directory, whole, fingerprint, loaded, told)
                report.results(summary, directory.rows())
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


def _compute(
    settings: RunConfig,
    config: Mapping[str, Any],
    directory: RunDirectory,
    whole: str,
    fingerprint: str,
    load: Load,
    told: Callable[[int, int], None],
) -> dict[str, Any]:
    """Compute what is missing, write every file, and mark the run as done."""
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
        chunks = _edit_and_evaluate(settings, config, directory, lm, cases, measures, told)
    failed = directory.failed(chunks)
    if len(failed) == len(cases):
        directory.forget_chunks()
        raise ValueError(f"no case could be edited: {next(iter(failed.values()))}")
    with stages.stage("metrics"):
        directory.join_chunks(chunks, int(settings.keep_edits_gib * 1024**3), measures)
        metrics = measured(settings.metric.values(), results_of(directory))
    provenance = {
        **environment(),
        "model_revision": lm.revision,
        "data_source": source,
        "data_fingerprint": fingerprint,
        "seed": settings.seed,
        "device": str(lm.device),
        "dtype": settings.dtype,
        "stages": stages.records,
    }
    write_json(directory.path / "provenance.json", provenance)
    summary = {
        **_identity(settings, config, directory),
        "whole_run": whole,
        "source": source,
        "cases": len(cases),
        "failed": len(failed),
        "metrics": metrics,
        "metric_configs": metric_hashes(config),
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
                "error is above the tolerance, %d of them for the rounding of %s alone "
                "(neurons.json lists them)",
                100 * uncertified / len(residuals),
                len(residuals),
                rounded(located),
                settings.dtype,
            )
    directory.finish(summary)
    log.info("done: %s (%s)", directory.path, _headline_metrics(metrics))
    return summary


def _edit_and_evaluate(
    settings: RunConfig,
    config: Mapping[str, Any],
    directory: RunDirectory,
    lm: LanguageModel,
    cases: Sequence[Case],
    measures: Mapping[str, Measure],
    told: Callable[[int, int], None],
) -> int:
    """Do every step that is not there yet; give the number of chunks that make the run."""
    method, regime = settings.method, settings.regime
    todo = steps(method, cases, regime, settings.edits_per_batch)
    method.prepare(lm, settings.seed)
    earlier: dict[str, Edit] = {}
    bar = tqdm(total=len(cases), unit="case", desc=_headline(config, ""), disable=None)
    with bar:
        done = 0
        told(sum(len(step) for n, step in enumerate(todo) if directory.has_chunk(n)), len(cases))
        for number, step in enumerate(todo):
            if not directory.has_chunk(number):
                before = list(earlier.values())
                compute = partial(
                    scored, lm, method, step, seed=settings.seed, regime=regime, before=before
                )
                plan, rows = _within_memory(lm, compute)
                found = {
                    name: _within_memory(lm, partial(measure, step, plan, rows))
                    for name, measure in measures.items()
                }
                directory.add_chunk(number, rows, plan, found)
                check()
            if regime == "sequential":
                earlier |= directory.chunk_edits(number)
            bar.update(len(step))
            done += len(step)
            told(done, len(cases))
        if regime != "sequential":
            return len(todo)
        chunks = len(todo)
        for number, rest in enumerate(after_all(method, cases, earlier), start=chunks):
            if not directory.has_chunk(number):
                rows = _within_memory(lm, partial(scored_after_all, lm, method, rest, earlier))
                directory.add_chunk(number, rows, NOTHING)
                check()
            chunks += 1
    return chunks


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


def module_name(node: Mapping[str, Any]) -> str:
    """The short name of a config node: its class's module, which its YAML file shares."""
    return str(node["_target_"]).split(".")[-2]


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


def _rescored(settings: RunConfig, config: Mapping[str, Any], directory: RunDirectory) -> Outcome:
    """A finished run; metrics it does not have yet are computed from its rows and added."""
    summary = json.loads(directory.summary_path.read_text(encoding="utf-8"))
    known, wanted = summary["metric_configs"], metric_hashes(config)
    new = [name for name in wanted if known.get(name) != wanted[name]]
    log.info("already done: %s%s", directory.path, f"; scored {', '.join(new)}" if new else "")
    before = OmegaConf.to_container(OmegaConf.load(directory.path / "config.yaml"))
    assert isinstance(before, dict)
    if logged_otherwise({str(k): v for k, v in before.items()}, config):
        log.info(
            "it had another tracker: nothing is logged anew (rerun=true computes and logs again)"
        )
    if new:
        metrics = measured([settings.metric[name] for name in new], results_of(directory))
        summary["metrics"] |= metrics
        summary["metric_configs"] |= wanted
        before["metric"] |= config["metric"]
        _write_config(directory.path / "config.yaml", {str(k): v for k, v in before.items()})
        directory.finish(summary)
    return Outcome(directory.path, summary, computed=False)


def _headline(config: Mapping[str, Any], name: str) -> str:
    """Model, dataset and method, and what else the run was asked for by."""
    known = [
        config["model"]["label"],
        module_name(config["dataset"]),
        module_name(config["method"]),
    ]
    others = re.sub(r"(^|(?<= ))(model|dataset|method|experiment)=\S*( |$)", "", name).strip()
    return " ".join([*known, *([others] if others else [])])


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
