"""Run the notebooks and keep their outputs: `python docs/notebooks/run.py`."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
NOTEBOOKS = sorted(HERE.glob("*.ipynb"))
QUIET = "ignore:IProgress not found"
"""tqdm asks for ipywidgets, by the path it is installed at."""


def executed(path: Path) -> NotebookNode:
    """A notebook run from its first cell, in the environment that runs this.

    Raises:
        CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(HERE)}},
    ).execute(env={**os.environ, "PYTHONWARNINGS": QUIET})
    # Which Python ran it is not the notebook's.
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    return notebook


def main() -> None:
    """Write every notebook with the outputs it has now."""
    for path in NOTEBOOKS:
        nbformat.write(executed(path), path)


if __name__ == "__main__":
    main()
