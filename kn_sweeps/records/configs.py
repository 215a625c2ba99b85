"""A run's config as a YAML file that people read, with its checksum in a comment on top.

OmegaConf writes it, so that what reads it with OmegaConf, as with any reader of YAML, has the same
values: here 1e-05 is a number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kn_sweeps.records.integrity import DamagedError, read_sealed_text, write_sealed_text


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads YAML as OmegaConf does, in C where that is there."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), "-+0123456789"
)


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write a config atomically."""
    from omegaconf import OmegaConf

    write_sealed_text(path, OmegaConf.to_yaml(OmegaConf.create(dict(config))))


def read_config(path: Path) -> dict[str, Any]:
    """Read a config; one without a checksum, which somebody wrote by hand, is taken as it is.

    Raises:
        DamagedError: If it is not what was written, or no mapping.
        OSError: If it cannot be opened.
    """
    try:
        config = yaml.load(read_sealed_text(path), _Loader)
    except yaml.YAMLError as error:
        raise DamagedError(path, f"it is no YAML ({error})") from error
    if not isinstance(config, dict):
        raise DamagedError(path, f"expected a mapping, got {type(config).__name__}")
    return {str(key): value for key, value in config.items()}
