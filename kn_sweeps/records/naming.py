"""What people call runs: model, data set and method, and what else tells runs of a sweep apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from kn_sweeps.config import CANNOT_CHANGE_ROWS

_LONGEST_VALUE, _LONGEST = 40, 120
"""Characters; W&B takes names of up to 128."""


def module_name(node: Mapping[str, Any]) -> str:
    """The short name of a config node: its class's module, which its YAML file shares."""
    return str(node["_target_"]).split(".")[-2]


def headline(config: Mapping[str, Any]) -> str:
    """A run's model, data set and method."""
    return " ".join(
        [config["model"]["label"], module_name(config["dataset"]), module_name(config["method"])]
    )


def asked_for(config: Mapping[str, Any], overrides: str) -> str:
    """A run's headline, and what else it was asked for by."""
    others = re.sub(r"(^|(?<= ))(model|dataset|method|experiment)=\S*( |$)", "", overrides).strip()
    return " ".join([headline(config), *([others] if others else [])])


def names(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The names of a sweep's runs.

    Args:
        configs: Every run's resolved config, by run id.

    Returns:
        By run id the headline, and the settings in which runs of the same headline differ.
    """
    together: dict[str, list[str]] = {}
    for run, config in configs.items():
        together.setdefault(headline(config), []).append(run)
    found = {}
    for title, runs in together.items():
        flat = {run: dict(_flat(configs[run])) for run in runs}
        keys = dict.fromkeys(key for settings in flat.values() for key in settings)
        telling = [key for key in keys if len({repr(s.get(key)) for s in flat.values()}) > 1]
        short = _shortened(telling)
        for run, settings in flat.items():
            more = (f"{short[key]}={_shown(settings[key])}" for key in telling if key in settings)
            found[run] = " ".join([title, *more])[:_LONGEST]
    return found


def _flat(node: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Hashable]]:
    """Every setting under its whole name."""
    for key, value in node.items():
        if not at and key in CANNOT_CHANGE_ROWS:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def _shortened(keys: list[str]) -> dict[str, str]:
    """The last part of every key, or the whole of it where that is not enough."""
    last = {key: key.rsplit(".", 1)[-1] for key in keys}
    count = Counter(last.values())
    return {key: end if count[end] == 1 else key for key, end in last.items()}


def _shown(value: object) -> str:
    if isinstance(value, list):
        text = f"[{','.join(map(str, value))}]"
    else:
        text = "null" if value is None else str(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
