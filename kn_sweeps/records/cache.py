"""The folder where downloads, converted models and attributions are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from kn_sweeps.records.files import user_path

NAMES = ("attributions", "data", "hashes", "models", "second_moments")


def cache_directory(name: str) -> Path:
    """Folder `name` of the user's cache: `KN_SWEEPS_CACHE`, or the platform's place for it."""
    root = os.environ.get("KN_SWEEPS_CACHE")
    base = user_path(root) if root else Path(platformdirs.user_cache_dir("kn_sweeps"))
    return base / name
