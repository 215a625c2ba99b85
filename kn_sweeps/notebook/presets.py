"""Models, methods and metrics as the command line composes them from `conf`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kn_sweeps.commands.explaining import explain
from kn_sweeps.commands.resolvers import register_resolvers
from kn_sweeps.config import RunConfig, build, checked
from kn_sweeps.methods.base import Method
from kn_sweeps.methods.tuned import tuned
from kn_sweeps.metrics.base import Metric
from kn_sweeps.mistakes import did_you_mean
from kn_sweeps.models.pretrained import Pretrained, label_of
from kn_sweeps.records.files import user_path
from kn_sweeps.records.naming import module_name
from kn_sweeps.records.places import CONF

if TYPE_CHECKING:
    from kn_sweeps.models.language_model import LanguageModel

M = TypeVar("M", bound=Method)

_GENERIC = "gpt2_xl"
"""Whose values a method takes for a model it is not tuned for: the one most were published on."""


_OWN = "checkpoint"
"""The preset for a folder on the command line; here the folder is named itself."""


def load(
    name: str | Path, *, device: str = "auto", dtype: str = "float32", **settings: Any
) -> LanguageModel:
    """Load a model.

    Args:
        name: A preset (`smollm2_135m`; the YAMLs of conf/model), a folder with a checkpoint, or
            OWNER/NAME on the hub.
        device: `auto` takes CUDA where there is one; `cpu` or `cuda`.
        dtype: `float32`, `bfloat16` or `float16`.
        **settings: What else the model's config says, such as `start_token`.

    Raises:
        ValueError: If there is no such model, or it cannot be used; with what can.
    """
    from kn_sweeps.models.loading import device as found

    chosen = checked({"device": device, "dtype": dtype}, RunConfig)
    model = build(_model_node(name) | settings, at="model")
    lm: LanguageModel = model.load(found(chosen["device"]), chosen["dtype"])
    return lm


def _model_node(name: str | Path) -> dict[str, Any]:
    if not isinstance(name, str | Path) or not str(name).strip():
        raise ValueError(f"model {name!r}: expected a preset, a folder, or OWNER/NAME on the hub")
    known = [one for one in _choices("model") if one != _OWN]
    if str(name) in known:
        return dict(_composed(f"model={name}")["model"])
    folder = user_path(str(name))
    if not folder.is_dir() and "/" not in str(name):
        near = did_you_mean(str(name), known)
        raise ValueError(
            f"unknown model {str(name)!r}{near}; choose from {', '.join(known)}, or name a folder "
            "with a checkpoint, or OWNER/NAME on the hub"
        )
    place = str(folder) if folder.is_dir() or isinstance(name, Path) else name
    target = f"{Pretrained.__module__}.{Pretrained.__name__}"
    return {"_target_": target, "label": label_of(place), "name": place}


def method_for(cls: type[M], lm: LanguageModel, settings: Mapping[str, Any]) -> M:
    """A method with the values that a run has for a model.

    Where none are tuned for it, those of GPT-2 XL are taken, at the same share of the depth, and
    a warning says which.

    Raises:
        ValueError: If a setting does not exist or fit, or `conf` has no such method.
    """
    name = module_name({"_target_": f"{cls.__module__}.{cls.__name__}"})
    if name not in (known := _choices("method")):
        raise ValueError(
            f"conf/method has no {name}.yaml, which would say what {cls.__name__} takes for "
            f"{lm.name}: make one of {', '.join(known)}, or give all values: {cls.__name__}(...)"
        )
    preset = _preset_of(lm)
    if preset is not None and tuned(name, preset, CONF) is not None:
        node = _composed(f"model={preset}", f"method={name}")["method"]
    else:
        generic = _at_depth(tuned(name, _GENERIC, CONF) or {}, lm.architecture.layers)
        composed = _composed(f"model={_GENERIC}", f"method={name}")["method"]
        node = OmegaConf.to_container(OmegaConf.merge(composed, generic))
        if told := {key: value for key, value in generic.items() if key not in settings}:
            values = ", ".join(f"{key}={value!r}" for key, value in told.items())
            warnings.warn(
                f"{name} is not tuned for {lm.name}: it takes the values of {_GENERIC}, with "
                f"layers at the same share of the depth and bundled texts ({values}); give better "
                "ones to for_model",
                stacklevel=3,
            )
    made: M = build({**node, **settings}, at="method")
    return made


def _preset_of(lm: LanguageModel) -> str | None:
    """The YAML of conf/model that has a model's name, as hubs spell it or we do."""
    name = re.sub(r"[-.]", "_", lm.name).lower()
    if name not in _choices("model"):
        return None
    layers = _composed(f"model={name}")["model"]["layers"]
    return name if layers in (None, lm.architecture.layers) else None


def _at_depth(values: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """GPT-2 XL's values for a model of another depth, and of texts that are at hand."""
    deep = _composed(f"model={_GENERIC}")["model"]["layers"]
    found = dict(values)
    if "layer" in found:
        found["layer"] = found["layer"] * layers // deep
    if "layers" in found:
        found["layers"] = sorted({layer * layers // deep for layer in found["layers"]})
    if "second_moment" in found:
        found["second_moment"] = {**found["second_moment"], "name": "bundled"}
    return found


def _choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@cache
def _composed(*overrides: str) -> dict[str, Any]:
    """A run's config, resolved but for what it cannot have a value for."""
    register_resolvers()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", overrides=list(overrides))
            found = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(explain(error)) from error
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def default_metrics() -> list[Metric]:
    """The metrics that a run computes unless told otherwise."""
    return [build(node, at=f"metric.{name}") for name, node in _composed()["metric"].items()]
