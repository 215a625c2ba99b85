"""The W&B server of the tests is one to the client that users have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.servers.wandb import WandbServer

LOG = """
import sys, wandb
from PIL import Image
first, last, code = map(int, sys.argv[1:])
run = wandb.init(
    id="run1", project="trees", group="forest", job_type="growth", name="an oak", tags=["tall"],
    config={"depth": {"mean": 3}}, resume="allow", mode="online",
    settings=wandb.Settings(console="off", init_timeout=20),
)
for step in range(first, last):
    run.log({"leaves": 10 * step}, step=step)
run.log({
    "leaf": wandb.Table(columns=["size", "colour"], data=[[1, "green"], [None, "red"]]),
    "picture": wandb.Image(Image.new("RGB", (4, 4))),
})
run.summary["height"] = 2.5
run.summary["nothing"] = None
run.finish(exit_code=code)
"""

READ = """
import json, wandb
run = wandb.Api().run("lab/trees/run1")
print(json.dumps({
    "state": run.state, "height": run.summary["height"], "step": run.lastHistoryStep,
    "depth": run.config["depth"]["mean"], "group": run.group,
    "runs": [one.id for one in wandb.Api().runs("lab/trees", filters={"group": "forest"})],
    "none": len(wandb.Api().runs("lab/trees", filters={"group": "desert"})),
}))
"""


def client(server: WandbServer, home: Path, code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **server.environment(str(home))},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_arrives_whole_is_resumed_and_read_back(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    client(wandb_server, tmp_path, LOG, "0", "3", "1")
    (run,) = wandb_server.runs.values()
    assert (run.id, run.name, run.group, run.job_type) == ("run1", "an oak", "forest", "growth")
    assert (run.entity, run.project, run.tags, run.state) == ("lab", "trees", ["tall"], "failed")
    assert run.plain_config == {"depth": {"mean": 3}}
    assert [line.get("leaves") for line in run.history] == [0, 10, 20]
    assert run.summary["height"] == 2.5
    assert "nothing" not in run.summary, "the client leaves out what is null"
    table = json.loads(run.files[run.summary["leaf"]["path"]])
    assert table == {"columns": ["size", "colour"], "data": [[1, "green"], [None, "red"]]}
    assert run.files[run.summary["picture"]["path"]].startswith(b"\x89PNG")
    (artifact,) = wandb_server.artifacts.values()
    assert (artifact.state, "leaf.table.json" in artifact.files) == ("COMMITTED", True)

    client(wandb_server, tmp_path, LOG, "3", "5", "0")
    assert [line["_step"] for line in run.history] == [0, 1, 2, 3, 4]
    assert list(wandb_server.runs) == ["run1"]
    assert run.state == "finished"

    assert json.loads(client(wandb_server, tmp_path, READ)) == {
        **{"state": "finished", "height": 2.5, "step": 4, "depth": 3, "group": "forest"},
        **{"runs": ["run1"], "none": 0},
    }
    assert not wandb_server.unknown


def test_a_wrong_key_is_refused(wandb_server: WandbServer, tmp_path: Path) -> None:
    settings: dict[str, Any] = wandb_server.environment(str(tmp_path))
    code = "import wandb; wandb.init(project='trees', mode='online')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **settings, "WANDB_API_KEY": "x" * 40},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "user is not logged in" in done.stderr
    assert not wandb_server.runs
