"""The console command: `kn-sweeps COMMAND ...`, or `python -m kn_sweeps COMMAND ...`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version

from kn_sweeps.commands import COMMANDS, OF_ANALYSIS
from kn_sweeps.commands.console import NAME, command, complain, say
from kn_sweeps.mistakes import did_you_mean
from kn_sweeps.records.places import analysis


def usage() -> str:
    """The commands, one a line."""
    wide = max(map(len, COMMANDS))
    return "\n".join(
        [
            f"usage: {NAME} COMMAND ...",
            "",
            "Locate and edit facts and grammar in language models, and measure what changed.",
            "",
            *(f"  {name:{wide}}  {does}" for name, does in COMMANDS.items()),
            "",
            f"{NAME} COMMAND --help says more; {NAME} --version which version this is.",
        ]
    )


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Do the command that is named first, with the arguments behind it."""
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if name in ("-h", "--help", "help"):
        say(usage())
        return 0
    if name == "--version":
        say(f"{NAME} {version('kn_sweeps')}")
        return 0
    if name not in COMMANDS:
        near = did_you_mean(name, COMMANDS)
        complain(f"unknown command {name!r}{near}; choose from {', '.join(COMMANDS)}")
        return 2
    sys.argv = [f"{NAME} {name}", *rest]
    module = name.replace("-", "_")
    if name in OF_ANALYSIS:
        return int(analysis(module).main(rest))
    return int(importlib.import_module(f"kn_sweeps.commands.{module}").main(rest))


if __name__ == "__main__":
    sys.exit(main())
