"""What sharing the cores with other programs costs a run, by how its threads are chosen.

python -m benchmarks.threads --json     method=rome dataset=blimp on the tiny model

A run is done on this machine as it is, and beside as many busy processes as there are cores, with
the product's choice of threads and with PyTorch's own (`as_it_is`). A fair share of the cores makes
a run of one thread slower by (busy processes + 1) / cores; `over_fair_share` says by how much more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from benchmarks.measuring import say
from kn_sweeps.threads import cores

_OWN = ("OMP_", "GOMP_", "MKL_", "KMP_")


@dataclass(frozen=True)
class Comparison:
    """Seconds of the same run.

    Attributes:
        cores: Of this machine, as many as there were busy processes.
        alone: As the product chooses threads, with the machine as it was.
        busy: The same beside busy processes.
        as_it_is: Beside them as PyTorch chooses: a thread a core, which spin.
        over_fair_share: `busy` as a multiple of what a fair share makes of `alone`.
    """

    cores: int
    alone: float
    busy: float
    as_it_is: float
    over_fair_share: float


def compare(overrides: Sequence[str]) -> Comparison:
    """Do a run three times."""
    chosen = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
    plain = {**chosen, "OMP_NUM_THREADS": str(cores()), "OMP_WAIT_POLICY": "ACTIVE"}
    alone = _seconds(overrides, chosen)
    say(f"alone: {alone:.1f} s")
    with _busy(cores()):
        busy = _seconds(overrides, chosen)
        say(f"beside {cores()} busy processes: {busy:.1f} s")
        as_it_is = _seconds(overrides, plain)
        say(f"a thread a core that spins: {as_it_is:.1f} s")
    fair = alone * (cores() + 1) / cores()
    return Comparison(cores(), alone, busy, as_it_is, busy / fair)


def _seconds(overrides: Sequence[str], environ: Mapping[str, str]) -> float:
    with tempfile.TemporaryDirectory() as results:
        command = [sys.executable, "-m", "kn_sweeps", "launch", *overrides]
        command += ["tracker=none", "attribution_cache_gib=0", f"results_dir={results}"]
        start = time.perf_counter()
        subprocess.run(command, env=environ, check=True, capture_output=True)
        return time.perf_counter() - start


@contextmanager
def _busy(number: int) -> Iterator[None]:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.threads", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("overrides", nargs="*", default=["method=rome", "dataset=blimp"])
    chosen = parser.parse_args(arguments)
    found = compare(chosen.overrides)
    print(json.dumps(asdict(found), indent=1) if chosen.json else found)


if __name__ == "__main__":
    main()
