"""`kn-sweeps COMMAND ...`, and `python -m kn_sweeps COMMAND ...`."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "launch": "kn_sweeps.commands.launch",
    "status": "kn_sweeps.commands.status",
    "sync": "kn_sweeps.commands.sync",
    "export": "kn_sweeps.commands.export",
    "prefetch": "kn_sweeps.sweeps.prefetch",
    "cache": "kn_sweeps.records.cache",
    "table": "analysis.table",
    "report": "analysis.report",
    "figures": "analysis.figures",
}


def main() -> None:
    """Do the command that is named first, with the arguments behind it."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        sys.exit(f"usage: kn-sweeps COMMAND ...; the commands are {', '.join(COMMANDS)}")
    sys.argv[:2] = [f"kn-sweeps {name}"]
    importlib.import_module(COMMANDS[name]).main()


if __name__ == "__main__":
    main()
