"""What a finished run's summary says of the run, and what a sweeper reads off it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kn_sweeps.cases import Intent
from kn_sweeps.metrics.catalogue import headlines
from kn_sweeps.metrics.localisation import certificates, layer_histogram, rounded
from kn_sweeps.mistakes import did_you_mean
from kn_sweeps.records.naming import module_name
from kn_sweeps.row import SCHEMA_VERSION

if TYPE_CHECKING:
    from kn_sweeps.config import RunConfig

log = logging.getLogger(__name__)


def identity(run_id: str, settings: RunConfig, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a table needs to tell a run from others."""
    method = config["method"]
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "sweep": settings.sweep,
        "model": settings.model.shown,
        "dataset": module_name(config["dataset"]),
        "method": module_name(method),
        "of": module_name(method["of"]) if "of" in method else None,
        "intent": settings.method.intent,
        "regime": settings.regime,
        "seed": settings.seed,
        "shard": settings.shard,
        "protocol": protocol(config, settings.method.intent),
    }


def protocol(config: Mapping[str, Any], intent: Intent, *, judged: bool = False) -> str:
    """How numbers came about, in a line: what decides whether they compare with others.

    Args:
        config: The run's, with all metrics that were computed.
        intent: Its method's.
        judged: Whether verdicts on its answers were read back.
    """
    scorers = {name: one["scorer"] for name, one in config["metric"].items() if "scorer" in one}
    alike = len(set(scorers.values())) == 1
    scored = (
        next(iter(scorers.values())) if alike else ", ".join(f"{k} {v}" for k, v in scorers.items())
    )
    others = [*config.get("beside", ())] if config.get("max_answer_tokens") else []
    beside = ", ".join(dict.fromkeys([*others, *(["judged"] if judged else [])]))
    size = config.get("edits_per_batch")
    asked = {
        "single": "right after its own edit, alone in effect",
        "batch": f"with {size or 'all'} cases' edits in effect at once",
        "sequential": f"right after its edit, {size or 1} cases a step on top of those before; "
        "NAME_after_all, once all are made",
    }
    chat = ["through the chat template"] if config["model"].get("chat") else []
    untuned = untuned_methods(config)
    given = config["dataset"].get("writes", "the data's new answer")
    return "; ".join(
        [
            f"scorer {scored or 'none'}" + (f", beside it {beside}" if beside else ""),
            f"asked {asked[config.get('regime', 'single')]}",
            *chat,
            *([f"with untuned values of {', '.join(untuned)}"] if untuned else []),
            "pre is the unedited model",
            f"writes {given}"
            if intent == "replace"
            else "writes nothing: the old answer should go",
        ]
    )


def untuned_methods(config: Mapping[str, Any]) -> list[str]:
    """Of a run's method and what it is made of, those whose values nobody tuned for its model."""
    used = (config["method"], config["method"].get("of"))
    names = [module_name(one) for one in used if one is not None]
    return [name for name in names if name in config["model"].get("untuned", ())]


def located_by_layer(
    located: Sequence[Mapping[str, Any]], layers: int, dtype: str
) -> dict[str, Any]:
    """How many neurons were located in each layer; nothing where none were looked for.

    What is not certified is said in the log.
    """
    if not located:
        return {}
    residuals, uncertified = certificates(located)
    if uncertified:
        log.warning(
            "%.1f %% of %d attributed layers are not certified: their residual or estimated error "
            "is above the tolerance or, with a fixed quadrature, not known; %d of them for the "
            "rounding of %s alone (neurons.json lists them)",
            100 * uncertified / len(residuals),
            len(residuals),
            rounded(located),
            dtype,
        )
    return {"neurons_by_layer": layer_histogram(located, layers).tolist()}


def headline_metrics(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """The metrics that people look for first, in one line."""
    known = {name: metrics[name]["value"] for name in headlines(metrics)}
    return ", ".join(f"{name} {value:.2f}" for name, value in known.items() if value is not None)


def objective(summary: Mapping[str, Any], names: str | tuple[str, ...]) -> float | list[float]:
    """What a sweeper is to make large or small.

    Args:
        summary: A finished run's.
        names: A metric's name, its value's negative where a `-` stands before it; or several.

    Raises:
        ValueError: If the run has no such metric or it could not be judged.
    """
    if isinstance(names, str):
        return _signed(summary, names)
    return [_signed(summary, name) for name in names]


def _signed(summary: Mapping[str, Any], given: str) -> float:
    metrics = summary["metrics"]
    name = given.strip().removeprefix("-")
    if name not in metrics:
        raise ValueError(
            f"objective={given}: run {summary['run_id']} measured no such metric"
            f"{did_you_mean(name, metrics)}; choose from {', '.join(metrics)}"
        )
    value = metrics[name]["value"]
    if value is None:
        raise ValueError(f"objective={given}: run {summary['run_id']} has nothing to judge it by")
    return -float(value) if given.strip().startswith("-") else float(value)
