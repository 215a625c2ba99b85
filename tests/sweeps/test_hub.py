"""Models, data and texts of a hub: prefetched from a server, they are there when it is gone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kn_sweeps.data.relations import COMMIT, RELATIONS
from kn_sweeps.data.texts import texts_of
from tests.models.folders import TINY
from tests.servers.hub import HubServer
from tests.servers.test_hub import client, configs

BUNDLED = Path(__file__).parents[2] / "kn_sweeps" / "data" / "bundled"
PARADIGMS = ("determiner_noun_agreement_1", "anaphor_number_agreement")
MODEL = ("model=gpt2", "model.name=lab/tiny", "model.label=tiny", "model.layers=5")


def filled(hub: HubServer) -> None:
    """A model, BLiMP, ParaRel and texts, as they are published."""
    hub.add("lab/tiny", {path.name: path.read_bytes() for path in (TINY / "tiny_gpt2").iterdir()})
    pairs = {
        f"{name}.jsonl": (BUNDLED / "blimp" / f"{name}.jsonl").read_bytes() for name in PARADIGMS
    }
    readme = configs(*PARADIGMS, place="{}.jsonl")
    hub.add("nyu-mll/blimp", {"README.md": readme, **pairs}, kind="datasets")
    for part, folder in (("facts", "trex_lms_vocab"), ("patterns", "pattern_data/graphs_json")):
        for name in RELATIONS:
            path = BUNDLED / "pararel" / part / f"{name}.jsonl"
            known = path if path.is_file() else path.with_name("P36.jsonl")
            address = f"/yanaiela/pararel/{COMMIT}/data/{folder}/{name}.jsonl"
            hub.raw[address] = known.read_bytes()
    lines = [json.dumps({"text": text}) for text in texts_of("bundled")]
    hub.add("lab/texts", {"train.jsonl": "\n".join(lines).encode()}, kind="datasets")


def command(hub: HubServer, at: Path, *arguments: str, **more: str) -> tuple[int, str]:
    """`kn-sweeps ...` in a process of its own that has the hub; its code and what it says."""
    env = {**os.environ, **hub.environment(str(at / "hf")), "KN_SWEEPS_CACHE": str(at / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "kn_sweeps", *arguments],
        cwd=at,
        umask=0o002,
        env={**env, "OMP_NUM_THREADS": "1", **more},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_what_was_prefetched_runs_when_the_hub_is_gone(hub: HubServer, tmp_path: Path) -> None:
    filled(hub)
    runs = (
        *(*MODEL, "tracker=none", "limit=1", "dataset=blimp,pararel", "method=rome"),
        *("metric=[reliability]", "method.second_moment={name: lab/texts, samples: 3000}"),
        *("method.contexts=0", "method.steps=2", "method.layer=2"),
    )
    code, said = command(hub, tmp_path, "prefetch", *runs)
    assert code == 0, said
    assert not hub.unknown
    hub.stop()
    code, said = command(hub, tmp_path, "launch", "-m", *runs, HF_HUB_OFFLINE="1")
    assert code == 0, said
    kept = [json.loads(p.read_text()) for p in tmp_path.glob("results/default/*/provenance.json")]
    assert sorted(one["data_source"] for one in kept) == ["hub", "hub"]
    revisions = {one["data_revision"] for one in kept}
    blimp = hub.repositories["datasets", "nyu-mll/blimp"].branches["main"]
    assert revisions == {COMMIT, blimp}
    # What one user keeps, others of the group can read: libraries make files for the owner alone.
    cached = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert {path.suffix for path in cached} >= {".jsonl", ".safetensors"}
    assert all(path.stat().st_mode & 0o060 == 0o060 for path in cached)


REFUSED = """
import os
from kn_sweeps.models.pretrained import Pretrained
asked = {"gone": None, "gated": None, "tiny": "v9", "a--b": None, "secret": None}
for name, revision in asked.items():
    model = Pretrained(label="m", name=f"lab/{name}", revision=revision)
    try:
        model.fetch()
    except ValueError as error:
        found[name] = str(error)
model = Pretrained(label="m", name="lab/old")
found["old"] = sorted(path.name for path in model.fetch().iterdir())
"""


def test_every_refusal_of_a_hub_is_a_sentence_of_its_own(hub: HubServer, tmp_path: Path) -> None:
    filled(hub)
    for name in ("gated", "old", "secret"):
        hub.add(f"lab/{name}", {"config.json": b"{}"})
    hub.repositories["models", "lab/gated"].refusal = (403, "GatedRepo")
    hub.repositories["models", "lab/secret"].refusal = (401, "")
    hub.repositories["models", "lab/old"].renamed = "lab/tiny"
    found = client(hub, tmp_path, REFUSED)
    expected = {
        "gone": "has no model 'lab/gone', or only for those who may read it: check the name, or set"
        " HF_TOKEN",
        "gated": f"is gated: accept its conditions at {hub.url}/lab/gated and set HF_TOKEN",
        "tiny": "model 'lab/tiny' has no revision 'v9'",
        "a--b": "neither a folder here nor a name that the hub",
        "secret": "model 'lab/secret'",
    }
    assert {name: part for name, part in expected.items() if part not in found[name]} == {}
    assert all(hub.url in found[name] for name in expected)
    assert {"config.json", "tokenizer.json", "model.safetensors"} < set(found["old"])


def test_what_is_fetched_is_what_is_read(hub: HubServer, tmp_path: Path) -> None:
    tiny = TINY / "tiny_gpt2"
    weights = load_file(tiny / "model.safetensors")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    small = {p.name: p.read_bytes() for p in tiny.iterdir() if p.suffix == ".json"}
    safe = (tiny / "model.safetensors").read_bytes()
    pickled = (tmp_path / "pytorch_model.bin").read_bytes()
    more = {"consolidated.safetensors": safe, "onnx/config.json": b"{}", "code.py": b"1"}
    hub.add("lab/safe", {**small, **more, "model.safetensors": safe, "pytorch_model.bin": pickled})
    hub.add("lab/pickled", {**small, **more, "pytorch_model.bin": pickled})
    code = """
from kn_sweeps.models.pretrained import Pretrained
import torch
for name in ("safe", "pickled"):
    model = Pretrained(label="m", name=f"lab/{name}")
    model.check()
    found[name] = sorted(path.name for path in model.fetch().iterdir())
    parameters = model.load(torch.device("cpu"), "float32").model.parameters()
    found[name].append(float(sum(p.double().abs().sum() for p in parameters)))
"""
    found = client(hub, tmp_path, code)
    assert found["safe"].pop() == found["pickled"].pop()
    read = set(small) - {"figures.json", "generation_config.json"}
    assert set(found["safe"]) == {*read, "model.safetensors"}
    assert set(found["pickled"]) == {*read, "pytorch_model.bin"}


def test_prefetch_refuses_what_would_not_load(hub: HubServer, tmp_path: Path) -> None:
    filled(hub)
    tiny = TINY / "tiny_gpt2"
    weights = load_file(tiny / "model.safetensors")
    del weights["transformer.h.2.mlp.c_fc.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    files = {path.name: path.read_bytes() for path in tiny.iterdir()}
    files["model.safetensors"] = (tmp_path / "model.safetensors").read_bytes()
    hub.add("lab/tiny", files)
    code, said = command(hub, tmp_path, "prefetch", *MODEL, "method=none", "tracker=none")
    assert code == 1
    assert "it lacks weights, which would be random numbers: transformer.h.2.mlp" in said


FETCH = """
from kn_sweeps.models.pretrained import Pretrained
model = Pretrained(label="m", name="lab/tiny")
found["files"] = sorted(path.name for path in model.fetch().iterdir())
found["commit"] = model.fingerprint()
model.check()
"""


def test_one_that_is_killed_and_two_at_once_leave_a_whole_cache(
    hub: HubServer, tmp_path: Path
) -> None:
    filled(hub)
    weights = "GET .*/model.safetensors"
    hub.fails(weights, "half", times=1)

    def started() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", f"found = {{}}\n{FETCH}"],
            env={**os.environ, **hub.environment(str(tmp_path / "hf"))},
            stderr=subprocess.PIPE,
            text=True,
        )

    killed = started()
    until = time.monotonic() + 60
    while not hub.asked(weights) and time.monotonic() < until:
        time.sleep(0.05)
    both = [started() for _ in range(2)]
    time.sleep(0.5)
    killed.kill()
    killed.communicate()
    said = [one.communicate(timeout=100)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    hub.stop()
    found = client(hub, tmp_path / "hf", FETCH, HF_HUB_OFFLINE="1")
    assert found["commit"] == hub.repositories["models", "lab/tiny"].branches["main"]
    assert {"config.json", "tokenizer.json", "model.safetensors"} < set(found["files"])


READING = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner,-chown")
"""What makes even root obey permissions."""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root")
def test_what_another_user_fetched_is_read_from_a_cache_that_may_not_be_written_to(
    hub: HubServer, tmp_path: Path
) -> None:
    filled(hub)
    home = tmp_path / "hf"
    client(hub, home, FETCH)
    for path in (home, *home.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    with pytest.raises(AssertionError):
        client(hub, home, "open(__import__('os').environ['HF_HOME'] + '/x', 'w')", within=READING)
    found = client(hub, home, FETCH, within=READING)
    assert found["commit"] == hub.repositories["models", "lab/tiny"].branches["main"]
    # A hub that says nothing, as behind a firewall, does not hold up what has all it needs.
    before = hub.asked()
    hub.fails("", "hang")
    assert client(hub, home, FETCH, within=READING) == found
    assert hub.asked() == before + 1, "it is waited for once"
