"""Python commands as `subprocess` runs them, in forks of a process that has imported PyTorch.

Importing PyTorch and transformers takes a command several times as long as what it does here.
What a command imports by itself, and that it can be started at all, is tested with `subprocess`.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.preloaded"])


class Popen:
    """A command that has been started; what it says goes to files, if anywhere."""

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        said: tuple[str, str] = (os.devnull, os.devnull),
    ) -> None:
        """Start it.

        Args:
            command: `[python, file, ...]` or `[python, "-m", module, ...]`.
            cwd: Where.
            env: Its environment; what libraries read while they are imported is this process's.
            said: Files for its standard output and error.
        """
        self._process = _CONTEXT.Process(target=_do, args=(command[1:], str(cwd), dict(env), said))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, or minus the signal that ended it; TimeoutExpired after some seconds."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("forked", timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def run(
    command: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float = 200
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run(..., capture_output=True, text=True)`."""
    with TemporaryDirectory() as folder:
        said = (f"{folder}/out", f"{folder}/errors")
        started = Popen(command, cwd, env, said)
        try:
            code = started.wait(timeout)
        finally:
            started.kill()
        return subprocess.CompletedProcess(command, code, *(Path(one).read_text() for one in said))


def _do(
    command: Sequence[str], cwd: str, environment: Mapping[str, str], said: tuple[str, str]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    for number, path in enumerate(said, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    try:
        if command[0] == "-m":
            sys.argv = [*command[1:]]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [*command]
            runpy.run_path(command[0], run_name="__main__")
    finally:  # a fork ends without what an interpreter does when it ends
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
