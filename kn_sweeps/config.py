"""The schema of a run's config, and how a composed config becomes typed objects.

A mapping with `_target_` names a dataclass; its other keys are that dataclass's fields. Every
value is checked against the field's type, so a wrong key or value is refused by name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from kn_sweeps.dashboards.tracker import Tracker
from kn_sweeps.data.base import Dataset
from kn_sweeps.measurements.base import Measurement
from kn_sweeps.methods.base import Method
from kn_sweeps.metrics.answers import Scorer
from kn_sweeps.metrics.base import Metric
from kn_sweeps.metrics.bootstrap import Bootstrap
from kn_sweeps.mistakes import did_you_mean
from kn_sweeps.models.checkpoints import DType
from kn_sweeps.models.loading import Model
from kn_sweeps.records.files import user_path
from kn_sweeps.records.folders import sweep_folder
from kn_sweeps.row import SCHEMA_VERSION

Pinned = TypeVar("Pinned", Model, Dataset)
Regime = Literal["single", "batch", "sequential"]

CANNOT_CHANGE_ROWS = (
    *(
        "metric",
        "scorer",
        "beside",
        "bootstrap",
        "tracker",
        "sweep",
        "device",
        "batch_size",
        "rerun",
        "results_dir",
    ),
    *("attribution_cache_gib", "keep_edits_gib"),
)
"""What is not part of a run id. `device` and `batch_size` change no row beyond the rounding of
`dtype`, which in bfloat16 is coarse; see docs/metrics.md, Rounding."""

_PLACE = ("root", "source", "revision", "path", "repository")
"""Where a dataset's files are, for which its fingerprint stands."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run.

    Attributes:
        model: Which language model.
        dataset: Where the cases come from.
        method: How edits are planned.
        metric: What is computed from the rows, by name.
        scorer: How metrics score a fact; each takes it from here unless it says otherwise.
        beside: By what else they score it, likewise.
        bootstrap: How metrics get their intervals; each takes it from here unless it says
            otherwise.
        measurement: What is measured besides the probes' answers, by name.
        tracker: Where results are reported besides the run directory.
        seed: All randomness comes from it.
        device: `auto` takes CUDA where there is one.
        dtype: Of the weights.
        limit: Cases per relation, paradigm or file; null for all.
        max_answer_tokens: How far a causal LM answers questions about facts in its own words, for
            the scorers `generated` and `contains`; null not to ask for it.
        max_text_tokens: How far it goes on from a `continuation`.
        batch_size: Rows in one forward pass when scoring.
        shard: I/N runs every N-th edit, starting with the I-th (from 0); with `regime=single`.
        sweep: Name of the folder under `results_dir`, and the W&B group.
        rerun: Run again even if the results are there.
        regime: `single`, every edit alone on the unedited model; `batch`, those of
            `edits_per_batch` cases in effect at once, every batch alone; `sequential`, batches one
            on top of the other, scored right after each and again after all.
        edits_per_batch: Cases of a batch; null for all in `batch` and one in `sequential`.
        evaluate_every: After how many edits of a sequence some are asked again with all so far in
            effect: a number for every so many, or a list of numbers; null for once, after all.
        evaluate_sample: How many earlier edits are asked then.
        keep_edits_gib: What a finished run may keep of its edits for export, in GiB.
        attribution_cache_gib: How much attribution results may take on disk for other runs to
            use, in GiB; 0 for none.
        results_dir: Where run directories go.
    """

    model: Model
    dataset: Dataset
    method: Method
    metric: dict[str, Metric]
    tracker: Tracker
    measurement: dict[str, Measurement] = field(default_factory=dict)
    scorer: Scorer = "exact"
    beside: tuple[Scorer, ...] = ("generated", "contains")
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: DType = "float32"
    limit: int | None = 5
    max_answer_tokens: int | None = None
    max_text_tokens: int = 100
    batch_size: int = 64
    shard: str = "0/1"
    sweep: str = "default"
    rerun: bool = False
    regime: Regime = "single"
    edits_per_batch: int | None = None
    evaluate_every: int | tuple[int, ...] | None = None
    evaluate_sample: int = 100
    keep_edits_gib: float = 2.0
    attribution_cache_gib: float = 4.0
    results_dir: str = "results"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        sweep_folder(self.results_dir, self.sweep)
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, or null for all cases; got {self.limit}")
        for name in ("batch_size", "max_answer_tokens", "max_text_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.edits_per_batch is not None and self.edits_per_batch < 1:
            raise ValueError(f"edits_per_batch must be at least 1, got {self.edits_per_batch}")
        if self.edits_per_batch is not None and self.regime == "single":
            raise ValueError("edits_per_batch needs regime=batch or regime=sequential")
        every = self.evaluate_every
        if every is not None and self.regime != "sequential":
            raise ValueError("evaluate_every needs regime=sequential")
        numbers = (every,) if isinstance(every, int) else every
        if numbers is not None and min(numbers, default=0) < 1:
            raise ValueError(
                f"evaluate_every must be a number of edits, a list of such, or null; got {every}"
            )
        if self.evaluate_sample < 1:
            raise ValueError(f"evaluate_sample must be at least 1, got {self.evaluate_sample}")
        if self.shard_of()[1] > 1 and self.regime != "single":
            raise ValueError(
                f"shard={self.shard} runs some of edits that do not touch one another; with "
                f"regime={self.regime} they do: leave it out"
            )

    def shard_of(self) -> tuple[int, int]:
        """The shard as (index, count).

        Raises:
            ValueError: If it is not I/N with 0 <= I < N.
        """
        try:
            index, count = (int(part) for part in self.shard.split("/"))
        except ValueError:
            index, count = 0, 0
        if not 0 <= index < count:
            raise ValueError(f"shard must be I/N with 0 <= I < N, e.g. 0/4; got {self.shard!r}")
        return index, count


def build(node: Mapping[str, Any], cls: type[Any] | None = None, at: str = "") -> Any:
    """Make the dataclass a config node describes.

    Args:
        node: A resolved mapping.
        cls: The dataclass; None to read it from `_target_`.
        at: The node's place in the config, for messages.

    Raises:
        ValueError: If a key is unknown or missing, or a value does not fit, with the choices.
    """
    values = dict(node)
    target = values.pop("_target_", None)
    if target is not None:
        cls = _find_class(target, at)
    assert cls is not None
    return _made(cls, checked(values, cls, at), at)


def checked(values: Mapping[str, Any], cls: type[Any], at: str = "") -> dict[str, Any]:
    """Some fields of a dataclass, checked and made, as `build` has them.

    Args:
        values: By name; fields that are left out stay unchecked.
        cls: The dataclass.
        at: The node's place in the config, for messages.

    Raises:
        ValueError: If a key is unknown or a value does not fit, with the choices.
    """
    fields, hints = _fields(cls), get_type_hints(cls)
    for key in values:
        if key not in fields:
            near = did_you_mean(key, fields)
            raise ValueError(f"unknown key {_join(at, key)}{near}; choose from {', '.join(fields)}")
    return {key: _convert(value, hints[key], _join(at, key)) for key, value in values.items()}


def without_models(config: Mapping[str, Any]) -> RunConfig:
    """A run but for its method and measurements, whose modules import the model libraries.

    That takes seconds; all else is made and checked, and neither is looked at meanwhile.

    Raises:
        ValueError: As `build`.
    """
    light = {key: value for key, value in config.items() if key not in ("method", "measurement")}
    made: RunConfig = _made(RunConfig, {**checked(light, RunConfig), "method": None})
    return made


def _made(cls: type[Any], made: Mapping[str, Any], at: str = "") -> Any:
    """A dataclass of fields that are checked."""
    try:
        return cls(**made)
    except TypeError as error:
        missing = [
            _join(at, name)
            for name, field in _fields(cls).items()
            if name not in made
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ]
        if not missing:
            raise
        raise ValueError(f"missing {', '.join(missing)}") from error
    except ValueError as error:
        raise ValueError(f"{at}: {error}" if at else str(error)) from error


def _fields(cls: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def run_id(config: Mapping[str, Any], model_fingerprint: str, data_fingerprint: str) -> str:
    """Twelve hex digits of everything that can change a run's rows.

    Args:
        config: The resolved config.
        model_fingerprint: Which weights; it stands for the place they are in.
        data_fingerprint: Hash of the data files; it stands for the folder they are in.
    """
    kept = {key: value for key, value in config.items() if key not in CANNOT_CHANGE_ROWS}
    if not kept.get("measurement"):
        kept.pop("measurement", None)
    kept["dataset"] = {k: v for k, v in kept["dataset"].items() if k not in _PLACE}
    # What else is said of a model counts where it is taken: its openings in the method.
    kept["model"] = {k: kept["model"].get(k) for k in ("label", "start_token", "chat")}
    text = json.dumps([SCHEMA_VERSION, kept, model_fingerprint, data_fingerprint], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def metric_hashes(config: Mapping[str, Any]) -> dict[str, str]:
    """Identifies how each metric is computed from the rows."""
    return {
        name: hashlib.sha256(json.dumps(node, sort_keys=True).encode()).hexdigest()[:12]
        for name, node in config["metric"].items()
    }


def shown_otherwise(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a config wants a run shown otherwise than another one, by which it was done.

    Args:
        before: That other config.
        now: The config.
    """
    if now["tracker"]["_target_"].endswith(".NoTracker"):
        return False
    return bool(before.get("tracker") != now["tracker"])


def pinned(node: Mapping[str, Any], made: Pinned) -> tuple[dict[str, Any], Pinned]:
    """A model's or data set's node and what it makes, as they stay: commits instead of branches.

    Raises:
        ValueError: If it cannot be found.
    """
    now: Pinned = made.pinned()
    values = {name: getattr(now, name) for name in _fields(type(now))}
    changed = {name: one for name, one in values.items() if one != getattr(made, name)}
    return {**node, **changed}, now


def at_home(value: Any) -> Any:
    """A config with `~` spelled out in every text that begins with it: only paths do.

    Raises:
        ValueError: If it is the `~` of a user that does not exist.
    """
    if isinstance(value, str):
        return str(user_path(value)) if value.startswith("~") else value
    if isinstance(value, Mapping):
        return {key: at_home(one) for key, one in value.items()}
    return [at_home(one) for one in value] if isinstance(value, list | tuple) else value


def _convert(value: Any, hint: Any, at: str) -> Any:
    """Check one value against its field's type."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(value, None, at)
        if dataclasses.is_dataclass(hint):
            return build(value, hint if isinstance(hint, type) else None, at)
        value = {
            k: build(v, None, _join(at, k)) if isinstance(v, Mapping) and "_target_" in v else v
            for k, v in value.items()
        }
    if isinstance(value, bool) and "bool" not in str(hint):
        raise ValueError(f"{at}={value!r}: expected another type than true or false")
    adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        found = error.errors()[0]
        if found["type"] == "tuple_type" and isinstance(value, str | int | float):
            raise ValueError(f"{at}={value}: expected a list; write {at}=[{value}]") from None
        raise ValueError(f"{at}={value!r}: {found['msg']}") from None


def _find_class(target: str, at: str) -> type[Any]:
    module, _, name = str(target).rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{_join(at, '_target_')}={target!r} cannot be imported: {error}"
        ) from None
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ValueError(f"{_join(at, '_target_')}={target!r} is not a dataclass")
    return cls


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key
