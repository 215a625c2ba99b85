"""The folder where downloads and converted models are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_directory(name: str) -> Path:
    """Folder `name` of the user's cache: `KN_SWEEPS_CACHE`, or the platform's place for it."""
    root = os.environ.get("KN_SWEEPS_CACHE")
    base = Path(root) if root else Path(platformdirs.user_cache_dir("kn_sweeps"))
    return base / name
