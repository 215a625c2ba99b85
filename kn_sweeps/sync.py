"""Upload what the runs of a sweep logged offline to Weights & Biases.

    python -m kn_sweeps.sync SWEEP

A run has one W&B id whatever its restarts, so the logs of its restarts become one run there, in
the order in which they were written. What was uploaded is not uploaded again; what is still being
written waits for the next time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from kn_sweeps.status import find_sweep
from kn_sweeps.store import RunDirectory


def ready(sweep: Path) -> tuple[list[Path], int]:
    """The folders to upload, oldest first, and how many runs are still writing theirs.

    Args:
        sweep: The sweep's directory.
    """
    # offline-run-YYYYMMDD_HHMMSS-RUN_ID sorts by time.
    folders = sorted(path for path in (sweep / "wandb").glob("offline-run-*-*") if path.is_dir())
    new = [path for path in folders if not list(path.glob("*.synced"))]
    busy = {path for path in new if RunDirectory(sweep / path.name.rsplit("-", 1)[1]).busy()}
    return [path for path in new if path not in busy], len(busy)


def sync(sweep: Path) -> int:
    """Upload; gives W&B's exit code.

    Raises:
        ValueError: If there is nothing to upload.
    """
    folders, busy = ready(sweep)
    if busy:
        print(f"{busy} runs are still being written; sync again when they are done")
    if not folders:
        raise ValueError(f"nothing to upload in {sweep / 'wandb'}")
    print(f"uploading {len(folders)} logs", flush=True)
    command = [sys.executable, "-m", "wandb", "sync", "--yes", "--skip-synced"]
    return subprocess.run([*command, *map(str, folders)], check=False).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Upload one sweep.

    Returns:
        0; 1 if something could not be uploaded or there is nothing.
    """
    parser = argparse.ArgumentParser(
        prog="python -m kn_sweeps.sync",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sweep", help="results/NAME or NAME")
    try:
        return 1 if sync(find_sweep(parser.parse_args(arguments).sweep)) else 0
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
