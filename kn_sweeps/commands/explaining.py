"""What is wrong with a config, in words; Hydra's and OmegaConf's are for who writes programs."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import (
    InterpolationResolutionError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from kn_sweeps.commands.console import in_words
from kn_sweeps.methods.tuned import untuned
from kn_sweeps.mistakes import did_you_mean
from kn_sweeps.records.places import CONF

_RESOLVING = "ValueError raised while resolving interpolation: "


def explain(error: BaseException) -> str | None:
    """The message of a mistake; of a config's with the valid choices where one was mistyped."""
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return in_words(error)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    message = str(error).strip()
    if isinstance(cause, InterpolationToMissingValueError):
        wanted = str(cause).split("\n")[0].rsplit(" ", 1)[-1]
        return f"{wanted} has no value yet (it is ???): say {wanted}=VALUE"
    if isinstance(cause, InterpolationResolutionError):
        # What a resolver of ours refused it said in a sentence.
        message = message.split("\n")[0].removeprefix(_RESOLVING)
    parent = getattr(cause, "parent_node", None)
    key = getattr(cause, "key", None)
    place = getattr(cause, "full_key", None) or key
    if isinstance(cause, MissingMandatoryValue):
        if isinstance(parent, DictConfig) and (
            told := untuned(parent._get_root(), str(place), CONF)
        ):
            return told
        return f"{place} has no value yet (it is ???): say {place}=VALUE"
    if isinstance(parent, Mapping) and key is not None and key not in parent:
        keys = [str(k) for k in parent if k not in ("_target_", "hydra")]
        return f"unknown key {place}{did_you_mean(str(key), keys)}; choose from {', '.join(keys)}"
    if (folder := re.search(r"Could not (?:find|load) 'model/(\S*/\S*)'", message)) is not None:
        return f"model={folder[1]} names no preset; of a folder say model=checkpoint model.name=DIR"
    if (given := re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", message)) is not None:
        group, name = given.groups()
        choices = _choices(group, message)
        near = did_you_mean(name, choices)
        return f"unknown {group} {name!r}{near}; choose from {', '.join(choices)}"
    return message


def _choices(group: str, message: str) -> list[str]:
    """The configs of a group: Hydra lists them, those of --config-dir too."""
    there = re.findall(r"^\t(\S+)$", message, re.MULTILINE)
    if there and not group.startswith("hydra/"):
        return sorted(there)
    # Of its own groups it also lists what this project does not use.
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))
