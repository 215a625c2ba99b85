"""What is imported only to compose, refuse, read or show takes no model library.

Modules are counted, not seconds. Each step of the list adds to what is imported before it, so
that one process does for many.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "datasets", "wandb", "scipy.stats", "matplotlib.pyplot")

SCRIPT = """
import contextlib, importlib, io, json, pkgutil, sys

told, seen = {}, set()

def step(name, work, allowed=()):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        work()
    found = {one for one in HEAVY if one in sys.modules} - seen
    told[name] = [sorted(found - {*allowed}), out.getvalue()]
    seen.update(found)

def every(package):
    importlib.import_module(package)
    for one in pkgutil.walk_packages(sys.modules[package].__path__, package + "."):
        importlib.import_module(one.name)

def called(*words):
    from kn_sweeps.__main__ import main
    with contextlib.suppress(SystemExit):
        main(list(words))

for name, work, *allowed in STEPS:
    step(name, eval("lambda: " + work), *allowed)
print(json.dumps(told))
"""


def steps(tmp_path: Path, steps: list[tuple[str, ...]]) -> dict[str, tuple[list[str], str]]:
    """Do some things in one new process; of each what it is the first to need, and what it said."""
    done = subprocess.run(
        [sys.executable, "-c", f"HEAVY = {HEAVY!r}\nSTEPS = {steps!r}\n{SCRIPT}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return {name: (heavy, said) for name, (heavy, said) in json.loads(done.stdout).items()}


def test_reading_takes_no_model_library(tmp_path: Path) -> None:
    found = steps(
        tmp_path,
        [
            ("the package", "importlib.import_module('kn_sweeps')"),
            ("records", "every('kn_sweeps.records')"),
            ("progress", "every('kn_sweeps.progress')"),
            ("metrics", "every('kn_sweeps.metrics')", ("scipy.stats",)),
            ("commands", "every('kn_sweeps.commands')"),
            ("sweeps", "every('kn_sweeps.sweeps')"),
            ("the table", "importlib.import_module('analysis.table')"),
            ("the report", "importlib.import_module('analysis.report')", ("matplotlib.pyplot",)),
        ],
    )
    assert {name: heavy for name, (heavy, _) in found.items() if heavy} == {}


def test_help_completion_and_refusing_take_no_model_library(tmp_path: Path) -> None:
    refused = {
        "method.layr": ("method=rome", "method.layr=3"),
        "seed=0.5": ("seed=0.5",),
        "sweep='../x'": ("-m", "sweep=../x"),
        "unknown model 'tiny-gpt2'": ("-m", "model=tiny-gpt2"),
        "limit must be": ("-m", "limit=0,1"),
        "regime='all'": ("-m", "regime=all"),
        "shard must be": ("shard=4/4",),
        "dataset.root names the folder": ("dataset.root=/nowhere/at/all",),
        "model.name=/nowhere/at/all": ("model=checkpoint", "model.name=/nowhere/at/all"),
    }
    found = steps(
        tmp_path,
        [
            ("usage: kn-sweeps COMMAND", "called('--help')"),
            ("did you mean status", "called('staus')"),
            ("method=rome", "called('completion', 'query', 'kn-sweeps launch method=r')"),
            ("there are no runs", "called('status', 'nothing')"),
            ("no runs in nothing", "called('table', 'nothing')"),
            # A metric that ranks builds on scipy.
            ("", "importlib.import_module('scipy.stats')", ("scipy.stats",)),
            *((told, f"called('launch', *{words!r})") for told, words in refused.items()),
        ],
    )
    assert {name: heavy for name, (heavy, _) in found.items() if heavy} == {}
    for told, (_, said) in found.items():
        assert told in said, said
