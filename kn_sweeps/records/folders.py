"""Where a sweep lies: its folder from its name, and which folder people mean by a name or path."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kn_sweeps.mistakes import did_you_mean
from kn_sweeps.records.files import user_path
from kn_sweeps.records.run_directory import CONFIG, SUMMARY

RESULTS = Path("results")
"""Where a name alone is looked up."""
_RUNS = ("launches/*", *(f"{at}/{name}" for name in (CONFIG, SUMMARY) for at in ("*", "*/*")))
"""What tells of runs in a folder of a sweep, or of sweeps."""


def sweep_folder(results_dir: str, sweep: str) -> Path:
    """The folder of a sweep.

    Args:
        results_dir: Where all are; `~` is the home directory.
        sweep: Its name; a folder in a folder is one too.

    Raises:
        ValueError: If it would not lie in the results folder.
    """
    parts = Path(sweep).parts
    if not parts or ".." in parts or Path(sweep).is_absolute() or not sweep.isprintable():
        raise ValueError(
            f"sweep={sweep!r}: expected the name of a folder in results_dir, without .. or a "
            "leading /; for another place say results_dir=DIR"
        )
    return user_path(results_dir) / sweep


def find_folder(name: str) -> Path:
    """The folder with runs that people mean by a sweep's name or by a path.

    A folder without runs, such as the project's `docs`, hides no sweep of its name.

    Raises:
        ValueError: If there is none, with those there are.
    """
    # A whole path is the same in both.
    places = list(dict.fromkeys([user_path(name), RESULTS / name]))
    for place in places:
        if any(next(place.glob(pattern), None) for pattern in _RUNS):
            return place
    there = sweeps_in(RESULTS)
    known = f"; {RESULTS} has {', '.join(there)}" if there else ""
    near = did_you_mean(places[0].name, there)
    raise ValueError(f"there are no runs in {' or '.join(map(str, places))}{near}{known}")


def find_folders(names: Sequence[str]) -> list[Path]:
    """As `find_folder`, for several; what is named twice is there once."""
    found = {path.resolve(): path for path in reversed([find_folder(name) for name in names])}
    return list(reversed(found.values()))


def listed(folders: Sequence[Path]) -> str:
    """Some folders in a message."""
    return ", ".join(map(str, folders))


def sweeps_in(folder: Path) -> list[str]:
    """The names of the sweeps right below a folder."""
    found = {path.parent.parent.name for path in folder.glob(f"*/*/{CONFIG}")}
    return sorted(found | {path.parent.name for path in folder.glob("*/launches")})


def common(folders: Sequence[Path]) -> Path:
    """Where goes what is made of several: the folder that holds them all; of one, that one."""
    if len(folders) == 1:
        return folders[0]
    return Path(os.path.commonpath([path.resolve() for path in folders]))
