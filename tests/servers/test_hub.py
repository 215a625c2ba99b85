"""The hub of the tests is one to the clients that users have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.servers.hub import HubServer

PARADIGMS = ("alpha", "beta")


def client(
    hub: HubServer, home: Path, code: str, within: Sequence[str] = (), **more: str
) -> dict[str, Any]:
    """Run code, which fills `found`, in a process that has the hub; gives `found`.

    Args:
        hub: The hub.
        home: The client's cache.
        code: Python.
        within: A command that runs the process.
        more: Of its environment.
    """
    whole = f"import json\nfound = {{}}\n{code}\nprint(json.dumps(found))"
    done = subprocess.run(
        [*within, sys.executable, "-c", whole],
        env={**os.environ, **hub.environment(str(home)), **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def pairs(name: str, tmp_path: Path) -> bytes:
    """A parquet file with two minimal pairs."""
    table = {"sentence_good": [f"{name} is fine", "it is"], "UID": [name, name]}
    path = tmp_path / f"{name}.parquet"
    pq.write_table(pa.table(table), path)
    return path.read_bytes()


def configs(*names: str, place: str) -> bytes:
    """The head of a data set's README, which names its configs."""
    entries = [
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {place.format(name)}\n"
        for name in names
    ]
    return f"---\nconfigs:\n{''.join(entries)}---\n".encode()


@pytest.mark.slow
def test_models_and_data_sets_are_read_and_are_there_offline(
    hub: HubServer, tmp_path: Path
) -> None:
    commit = hub.add(
        "lab/tiny",
        {
            "config.json": b'{"model_type": "gpt2", "n_layer": 3}',
            "model.safetensors": b"x" * 1000,
            "consolidated.safetensors": b"not wanted",
        },
    )
    parquet = {f"{name}/train-0.parquet": pairs(name, tmp_path) for name in PARADIGMS}
    readme = configs(*PARADIGMS, place="{}/train-*")
    hub.add("lab/pairs", {"README.md": readme, **parquet}, kind="datasets")
    lines = b'{"sentence_good": "a line", "UID": "gamma"}\n'
    more = {"README.md": configs("gamma", place="{}.jsonl"), "gamma.jsonl": lines}
    hub.add("lab/lines", more, kind="datasets")
    read = """
from pathlib import Path
import datasets
from transformers import AutoConfig
for repository, name in (("pairs", "alpha"), ("pairs", "beta"), ("lines", "gamma")):
    rows = datasets.load_dataset(f"lab/{repository}", name, split="train")
    found[name] = rows["sentence_good"][:]
found["layers"] = AutoConfig.from_pretrained("lab/tiny").n_layer
"""
    expected = {
        **{name: [f"{name} is fine", "it is"] for name in PARADIGMS},
        **{"gamma": ["a line"], "layers": 3},
    }
    online = """
from huggingface_hub import snapshot_download
folder = snapshot_download("lab/tiny", allow_patterns=["config.json", "model*"])
found["files"] = sorted(path.name for path in Path(folder).iterdir())
found["commit"] = Path(folder).name
found["names"] = datasets.get_dataset_config_names("lab/pairs")
"""
    assert client(hub, tmp_path, read + online) == {
        **expected,
        **{"files": ["config.json", "model.safetensors"], "commit": commit},
        "names": list(PARADIGMS),
    }
    assert hub.asked("GET .*consolidated") == 0
    assert not hub.unknown
    hub.stop()
    assert client(hub, tmp_path, read, HF_HUB_OFFLINE="1") == expected


REFUSED = """
from huggingface_hub import HfApi, snapshot_download
asked = {"gone": "main", "gated": "main", "tiny": "v9", "old": "main"}
for name, revision in asked.items():
    try:
        found[name] = snapshot_download(f"lab/{name}", revision=revision).rsplit("/")[-1]
    except Exception as error:
        found[name] = type(error).__name__
listed = HfApi().get_paths_info("lab/tiny", ["config.json", "nothing", "sub"], expand=True)
found["listed"] = [one.path for one in listed]
found["branches"] = [one.name for one in HfApi().list_repo_refs("lab/tiny").branches]
found["exists"] = HfApi().file_exists("lab/tiny", "nothing")
"""


def test_what_is_refused_has_the_error_that_the_clients_know(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.add("lab/tiny", {"config.json": b"{}", "sub/file": b"1"}, branch="v1")
    commit = hub.add("lab/tiny", {"config.json": b"{ }", "sub/file": b"1"})
    for name in ("gated", "old"):
        hub.add(f"lab/{name}", {"config.json": b"{}"})
    hub.repositories["models", "lab/gated"].refusal = (403, "GatedRepo")
    hub.repositories["models", "lab/old"].renamed = "lab/tiny"
    assert client(hub, tmp_path, REFUSED) == {
        **{"gone": "RepositoryNotFoundError", "gated": "GatedRepoError"},
        **{"tiny": "RevisionNotFoundError", "old": commit, "exists": False},
        **{"listed": ["config.json", "sub"], "branches": ["v1", "main"]},
    }


def test_a_download_that_broke_off_goes_on(hub: HubServer, tmp_path: Path) -> None:
    content = bytes(range(256)) * 40
    hub.add("lab/tiny", {"weights": content})
    address = f"{hub.url}/lab/tiny/resolve/main/weights"
    rest = httpx.get(address, headers={"Range": "bytes=100-"})
    assert (rest.status_code, rest.content) == (206, content[100:])
    assert rest.headers["content-range"] == f"bytes 100-{len(content) - 1}/{len(content)}"
    assert httpx.get(address, headers={"Range": f"bytes={len(content)}-"}).status_code == 416
    assert httpx.head(address).headers["content-length"] == str(len(content))


def test_requests_fail_by_rule_and_are_counted(hub: HubServer) -> None:
    hub.add("lab/tiny", {"config.json": b"{}"})
    address = f"{hub.url}/lab/tiny/resolve/main/config.json"
    hub.fails("GET .*config", 503, times=1, after=1)
    assert [httpx.get(address).status_code for _ in range(3)] == [200, 503, 200]
    hub.fails("GET .*config", "drop", times=1)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(address)
    hub.fails("GET .*config", "hang", times=1)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(address, timeout=0.2)
    assert hub.asked("GET .*config") == 5
