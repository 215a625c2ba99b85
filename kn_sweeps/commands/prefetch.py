"""Fetch what runs need into the caches: models, data and second moments.

    kn-sweeps prefetch model=gpt2_xl method=rome,memit dataset=pararel

takes what a launch takes (kn-sweeps launch --help). Launching on a cluster does it first, whose
nodes often have no internet.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kn_sweeps.commands import launch
from kn_sweeps.commands.console import command, say


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch what the runs of some overrides need."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if {"-h", "--help"} & {*given}:
        say(f"usage: kn-sweeps prefetch OVERRIDE ...\n\n{(__doc__ or '').rstrip()}")
        return 0
    return launch.main(["--multirun", "hydra/launcher=prefetch", *given])


if __name__ == "__main__":
    sys.exit(main())
