"""What is cached between runs: downloads, converted models, attributions, hashes, second moments.

    kn-sweeps cache                       what is there, and where
    kn-sweeps cache clear attributions    delete some of it

What is deleted is fetched or computed again when it is needed.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from kn_sweeps.commands.console import Parser, command, say
from kn_sweeps.records.cache import NAMES, cache_directory


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Show or clear the caches."""
    parser = Parser.of("cache", __doc__)
    parser.add_argument("do", nargs="?", choices=["clear"], help="delete it")
    parser.add_argument("name", nargs="?", choices=NAMES, help="what to delete")
    chosen = parser.parse_args(arguments)
    if chosen.do and not chosen.name:
        parser.error(f"clear needs to know what: {', '.join(NAMES)}")
    if chosen.name:
        shutil.rmtree(cache_directory(chosen.name), ignore_errors=True)
    for name in NAMES:
        folder = cache_directory(name)
        files = [path for path in folder.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files) / 1024**2
        say(f"{name:14}{len(files):8} files {size:10.1f} MiB  {folder}")


if __name__ == "__main__":
    sys.exit(main())
