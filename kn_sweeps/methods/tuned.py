"""Values of methods that depend on the model: `conf/tuned/METHOD/MODEL.yaml`.

Hydra puts them into a method's config, whose YAML has them in its defaults list and `???` in their
place. Here they are read without Hydra, and a model that has none is told what can be done.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kn_sweeps.mistakes import did_you_mean


def tuned(method: str, model: str, conf: Path) -> dict[str, Any] | None:
    """What is tuned of a method for a model.

    Args:
        method: A YAML of `conf/method`, without its suffix.
        model: A YAML of `conf/model`, likewise.
        conf: The folder of configs.

    Returns:
        Values by field, nested as in the method's YAML; empty where nothing of it depends on the
        model, and None where something does and is not tuned for this one.

    Raises:
        ValueError: If there is no such method; with the choices.
    """
    if not (conf / "method" / f"{method}.yaml").is_file():
        names = sorted(path.stem for path in (conf / "method").glob("*.yaml"))
        near = did_you_mean(method, names)
        raise ValueError(f"unknown method {method!r}{near}; choose from {', '.join(names)}")
    files = [conf / "tuned" / group / f"{model}.yaml" for group in _groups(method, conf)]
    if not all(file.is_file() for file in files):
        return None
    found = OmegaConf.to_container(OmegaConf.merge(*map(OmegaConf.load, files))) if files else {}
    assert isinstance(found, dict)
    return {str(field): value for field, value in found.items()}


def untuned(config: DictConfig, place: str, conf: Path) -> str | None:
    """What to do about a value of a method that the model has none for.

    Args:
        config: A run's config, as it was composed.
        place: Where the value is missing, such as `method.layer`.
        conf: The folder of configs.

    Returns:
        A sentence; None where `place` is no value that could be tuned.
    """
    at = "method.of" if place.startswith("method.of.") else "method"
    target = OmegaConf.select(config, f"{at}._target_")
    if not place.startswith(f"{at}.") or target is None:
        return None
    method = str(target).split(".")[-2]
    groups = _groups(method, conf)
    if not groups:
        return None
    missing = [key for key in OmegaConf.missing_keys(config) if key.startswith(f"{at}.")]
    files = " and ".join(f"tuned/{group}/MODEL.yaml" for group in groups)
    others = " ".join(f"tuned/{group}@{at}=NAME" for group in groups)
    names = sorted(file.stem for file in (conf / "tuned" / groups[-1]).glob("*.yaml"))
    return (
        f"{method} is not tuned for model {OmegaConf.select(config, 'model.label')}: say all of "
        f"{', '.join(sorted(missing))}; or write {files}, MODEL as in model=MODEL, in conf or in "
        f"a folder of your own (--config-dir); or take another model's, {others}, of which there "
        f"are {', '.join(names)}"
    )


def _groups(method: str, conf: Path) -> list[str]:
    """The groups of `conf/tuned` that a method's defaults list has, a base's first.

    None of a method that is not in `conf`, but in a folder of the user's own.
    """
    file = conf / "method" / f"{method}.yaml"
    groups: list[str] = []
    for entry in OmegaConf.load(file).get("defaults", []) if file.is_file() else ():
        if isinstance(entry, str):
            groups += [] if entry == "_self_" else _groups(entry, conf)
        else:
            found = (re.fullmatch(r"optional /tuned/(\w+)@_here_", str(key)) for key in entry)
            groups += [one[1] for one in found if one]
    return groups
