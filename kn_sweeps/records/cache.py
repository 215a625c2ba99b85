"""The folder where downloads, converted models and attributions are kept between runs.

kn-sweeps cache                       what is there
kn-sweeps cache clear attributions    delete it
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from kn_sweeps.records.files import user_path

NAMES = ("attributions", "data", "hashes", "models", "second_moments")


def cache_directory(name: str) -> Path:
    """Folder `name` of the user's cache: `KN_SWEEPS_CACHE`, or the platform's place for it."""
    root = os.environ.get("KN_SWEEPS_CACHE")
    base = user_path(root) if root else Path(platformdirs.user_cache_dir("kn_sweeps"))
    return base / name


def main(arguments: Sequence[str] | None = None) -> None:
    """Show or clear the caches."""
    parser = argparse.ArgumentParser(
        prog="kn-sweeps cache", description="Show what is cached, or clear it."
    )
    commands = parser.add_subparsers(dest="command")
    clear = commands.add_parser("clear", help="delete what is cached")
    clear.add_argument("name", choices=NAMES)
    chosen = parser.parse_args(arguments)
    if chosen.command == "clear":
        shutil.rmtree(cache_directory(chosen.name), ignore_errors=True)
    for name in NAMES:
        folder = cache_directory(name)
        files = [path for path in folder.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files) / 1024**2
        print(f"{name:14}{len(files):8} files {size:10.1f} MiB  {folder}")


if __name__ == "__main__":
    main()
