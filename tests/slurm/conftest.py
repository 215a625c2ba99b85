"""A Slurm of one node, with its own munge, ports and state, started for these tests."""

from __future__ import annotations

import os
import random
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

_CONF = """
ClusterName=tests
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/node
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/node.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/node.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
MaxArraySize=1001
KillWait=20
SlurmdTimeout=60
SchedulerParameters=sched_interval=1,batch_sched_delay=0,max_rpc_cnt=0
SlurmdParameters=config_overrides
NodeName=localhost CPUs=2 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE OverSubscribe=YES State=UP
"""


class Cluster:
    """The running cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        for name in ("munge", "controller", "node"):
            (self.folder / name).mkdir(mode=0o755)
        key = self.folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        ports = dict(zip(("controller", "node"), _free_ports(2), strict=True))
        self.conf.write_text(_CONF.format(folder=self.folder, **ports))
        munge = self.folder / "munge"
        # Forced, for the temporary folder it lies in may be written to by others.
        self._run(
            *("munged", "--foreground", "--force", f"--socket={munge}/socket"),
            *(f"--key-file={key}", f"--pid-file={munge}/pid"),
            *(f"--log-file={munge}/log", f"--seed-file={munge}/seed"),
        )
        _until(lambda: (munge / "socket").exists(), 20, "munged did not start")
        self._run("slurmctld", "-D", "-f", str(self.conf))
        self.start_node()
        _until(self._idle, 60, "the node did not come up")

    def start_node(self) -> None:
        self._run("slurmd", "-D", "-f", str(self.conf), "-N", "localhost")

    def stop_node(self) -> None:
        """Stop slurmd; what it started lives on."""
        self._end("slurmd")

    def stop(self) -> None:
        subprocess.run(["scancel", "--user", "root"], check=False, env=self.environment())
        for name in ("slurmd", "slurmctld", "munged"):
            self._end(name)

    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.conf)}

    def queue(self) -> list[str]:
        done = subprocess.run(
            ["squeue", "--noheader", "--array", "--format", "%i %T"],
            capture_output=True,
            text=True,
            check=True,
            env=self.environment(),
        )
        return done.stdout.splitlines()

    def _idle(self) -> bool:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format", "%t"],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment(),
        )
        return done.stdout.strip() == "idle"

    def _run(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self._processes[name] = subprocess.Popen(
                [name, *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                start_new_session=True,
            )

    def _end(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_ports(count: int) -> list[int]:
    """Of a range of this worker's own, below those that a kernel gives to two who ask at once."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 20_000 + 500 * (worker % 24)
    found: list[int] = []
    for port in random.sample(range(first, first + 500), 500):
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            break
    return found


def _until(condition: object, seconds: float, message: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError(message)
        time.sleep(0.1)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    missing = [name for name in ("slurmctld", "slurmd", "munged") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        reason = f"{', '.join(missing)} not installed" if missing else "not root"
        if os.environ.get("KN_SWEEPS_REQUIRE_SLURM"):
            pytest.fail(f"Slurm is required here: {reason}")
        pytest.skip(f"needs a Slurm that can be started here: {reason}")
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def sweep(
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Any:
    from tests.slurm.sweeps import Sweep  # which imports this module

    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    name = re.sub(r"\W", "-", request.node.name.removeprefix("test_"))[:40]
    return Sweep(tmp_path, cluster, name)
