"""A sweep from a hub to W&B over nodes without network, whose tasks are killed on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.dashboards.runs import Syncing, assert_complete
from tests.servers.hub import HubServer
from tests.servers.wandb import WandbServer
from tests.slurm.conftest import Cluster
from tests.sweeps.test_hub import command, filled

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]

SWEEP = (
    *("sweep=far", "method=kn,rome", "dataset=blimp", "limit=6", "metric=[reliability]"),
    *("dataset.paradigms=[determiner_noun_agreement_1]", "model=tiny_gpt2"),
    *("model._target_=kn_sweeps.models.pretrained.Pretrained", "+model.name=lab/tiny"),
    *("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "runs_per_task=2"),
    "+hydra.launcher.additional_parameters.hold=true",
)


def test_a_sweep_from_the_hub_to_wandb_on_nodes_without_network(
    cluster: Cluster,
    hub: HubServer,
    wandb_server: WandbServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    monkeypatch.delenv("KN_SWEEPS_DATA", raising=False)
    filled(hub)
    sweep = tmp_path / "results" / "far"
    job = _submitted(*command(hub, tmp_path, "launch", "-m", *SWEEP))
    assert not hub.unknown
    hub.stop()

    subprocess.run(["scontrol", "release", job], check=True)
    _until(lambda: any(one.get("done") for one in _statuses(sweep)))
    (process,) = {one["where"]["process"] for one in _statuses(sweep)}  # one task has both runs
    os.kill(process, signal.SIGSTOP)  # it does not end before it is watched
    watching = Syncing(wandb_server, sweep, "--watch=0.3")
    os.kill(process, signal.SIGKILL)
    code, _, errors = watching.ends()
    assert code == 0, errors
    assert {run.state for run in wandb_server.runs.values()} == {"failed"}

    again = _submitted(*command(hub, tmp_path, "status", "retry", str(sweep)))
    watching = Syncing(wandb_server, sweep, "--watch=0.3")
    subprocess.run(["scontrol", "release", again], check=True)
    code, _, errors = watching.ends()
    assert code == 0, errors
    assert_complete(wandb_server, sweep)
    assert [run.state for run in wandb_server.runs.values()] == ["finished"] * 2
    kept = [json.loads(path.read_text()) for path in sweep.glob("*/provenance.json")]
    published = hub.repositories["datasets", "nyu-mll/blimp"].branches["main"]
    assert [(one["data_source"], one["data_revision"]) for one in kept] == [("hub", published)] * 2


def _submitted(code: int, said: str) -> str:
    assert code == 0, said
    (job,) = re.findall(r"submitted: job (\d+)", said)
    return str(job)


def _statuses(sweep: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sweep.glob("*/status.json")]


def _until(true: object) -> None:
    until = time.monotonic() + 90
    while not true():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.05)


def test_second_moments_are_a_task_of_their_own_before_those_that_need_them(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    sweep = tmp_path / "results" / "s"

    def launch(samples: int) -> None:
        with HubServer() as nobody:
            code, said = command(
                *(nobody, tmp_path, "launch", "-m", "sweep=s", "method=rome", "model=tiny_gpt2"),
                *("dataset=pararel", "dataset.relations=[P36]", "limit=1", "seed=0,1"),
                *(f"method.second_moment={{name: bundled, samples: {samples}}}", "wait=true"),
                *("method.contexts=0", "metric=[reliability]", "runs_per_task=1"),
                *("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1"),
                HF_HUB_OFFLINE="1",
            )
        assert (code == 0) == (samples > 10), said

    launch(2000)
    logs = sorted(
        (sweep / "launches").glob("*/*.err"), key=lambda path: int(path.name.split("_")[0])
    )
    said = [path.read_text() for path in logs]
    assert "statistics of launch" in said[0]
    assert "second moments of layers" in said[0]
    assert len(said) == 3
    assert not any("second moments of layers" in one for one in said[1:])
    assert len(list(sweep.glob("*/summary.json"))) == 2
    # Too little text: the task before fails, and so says every run that needed it.
    launch(2)
    failed = [one["error"] for one in _statuses(sweep) if one["state"] == "failed"]
    assert len(failed) == 2
    assert all("second_moment.samples" in one for one in failed)
