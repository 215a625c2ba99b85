"""Hydra entry point: `python launch.py method=rome`, `python launch.py -m method=kn,rome`."""

import sys

from kn_sweeps.commands.launch import main

if __name__ == "__main__":
    sys.exit(main())
