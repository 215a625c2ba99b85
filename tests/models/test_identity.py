"""Equal content is one model, another byte anywhere is another; a hub's model is its commit."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ResolvedRevision, constants

from kn_sweeps.config import RunConfig, build, pinned
from kn_sweeps.models.last_loaded import LastLoaded
from kn_sweeps.models.pretrained import Pretrained, UnreachableError
from kn_sweeps.records import hashing
from kn_sweeps.records.hashing import digests
from kn_sweeps.run import run
from tests.models.folders import WEIGHTS, folder, model, weights, write
from tests.test_config import composed

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KN_SWEEPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashing, "_KEPT", 0)


def _old(path: Path, seconds: float = 100) -> None:
    """Let a file have changed some time ago."""
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes are kept at once: the time of an inode's change cannot be set for a test."""
    monkeypatch.setattr(hashing, "_RACY_S", -100.0)


def _flip(path: Path, at: int) -> None:
    """Change one byte in place, and let all but the inode's own time be as before."""
    about = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_one_byte_anywhere_makes_another_model(tmp_path: Path, quiet: None, name: str) -> None:
    at = folder(tmp_path / "m")
    before = model(at).fingerprint()
    for share in (0, 0.5, 1):
        _flip(at / name, int(share * ((at / name).stat().st_size - 1)))
        assert model(at).fingerprint() != before
        _flip(at / name, int(share * ((at / name).stat().st_size - 1)))
        assert model(at).fingerprint() == before


@pytest.mark.parametrize("name", ["vocab.txt", "merges.txt", "spiece.model", "chat_template.jinja"])
def test_every_file_a_tokenizer_is_read_from_counts_and_others_do_not(
    tmp_path: Path, name: str
) -> None:
    at = folder(tmp_path / "m")
    before = model(at).fingerprint()
    (at / "README.md").write_text("about it")
    (at / "edit.json").write_text("{}")
    (at / "other.safetensors").write_text("never read")
    assert model(at).fingerprint() == before
    (at / name).write_text("a")
    other = model(at).fingerprint()
    (at / name).write_text("b")
    assert len({before, other, model(at).fingerprint()}) == 3


def test_equal_content_is_one_model_whatever_it_is_called(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "one"), tmp_path / "two" / "bert"
    shutil.copytree(one, two)
    (two / "figures.json").unlink()
    assert model(one).fingerprint() == model(two).fingerprint()


def test_two_folders_that_differ_in_one_weight_are_two_runs(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "one"), folder(tmp_path / "two")
    tensors = weights(two)
    name = next(k for k in tensors if k.endswith("h.2.mlp.c_proj.weight"))
    tensors[name][3, 4] += 1
    write(two, tensors)
    asked = ("method=none", "dataset=pararel", "dataset.relations=[P36]", "limit=1", "tracker=none")
    where = (f"results_dir={tmp_path / 'results'}", "model.data_source=bundled")
    load = LastLoaded()
    folders = [
        run(composed("model=gpt2", f"model.name={at}", "model.layers=5", *asked, *where), load)
        for at in (one, two)
    ]
    assert all(done.computed for done in folders)
    assert len({done.directory for done in folders}) == 2
    revisions = [
        json.loads((done.directory / "provenance.json").read_text())["model_revision"]
        for done in folders
    ]
    assert revisions == [model(one).fingerprint(), model(two).fingerprint()]


def test_blocks_are_hashed_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_BLOCK", 4)
    texts = ["", "abcd", "abcdefgh", "efghabcd", "abcdefghi", "abcdefg", "abcdefgh\0"]
    for n, text in enumerate(texts):
        (tmp_path / str(n)).write_text(text)
    assert len(set(digests(tmp_path / str(n) for n in range(len(texts))))) == len(texts)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files of which a block was hashed."""
    seen: list[Path] = []
    original: Callable[[tuple[Path, int]], bytes] = hashing._block

    def block(where: tuple[Path, int]) -> bytes:
        seen.append(where[0])
        return original(where)

    monkeypatch.setattr(hashing, "_block", block)
    return seen


def test_a_hash_is_kept_until_the_file_changes(
    tmp_path: Path, quiet: None, read: list[Path]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0" * 100)
    first = digests([path])
    assert digests([path]) == first
    assert len(read) == 1
    _flip(path, 50)  # size and mtime stay
    assert digests([path]) != first
    path.write_bytes(b"0" * 100)
    assert digests([path]) == first
    other = tmp_path / "other"
    other.write_bytes(b"1" * 100)
    shutil.copystat(path, other)
    other.rename(path)
    assert digests([path]) != first


def test_a_file_that_has_just_changed_is_hashed_again(tmp_path: Path, read: list[Path]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0" * 100)
    _old(path)  # but its inode changed now
    digests([path])
    digests([path])
    assert len(read) == 2


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"path": "elsewhere"}',
        '{"path": PATH, "stamp": STAMP, "digest": 7}',
        '{"path": PATH, "stamp": STAMP, "digest": "short"}',
    ],
)
def test_a_damaged_entry_is_not_believed(tmp_path: Path, quiet: None, damage: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0" * 100)
    first = digests([path])
    (entry,) = (tmp_path / "cache" / "hashes").iterdir()
    known = json.loads(entry.read_text())
    text = damage.replace("PATH", json.dumps(known["path"]))
    entry.write_text(text.replace("STAMP", json.dumps(known["stamp"])))
    assert digests([path]) == first


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"0" * 100)
    monkeypatch.setenv("KN_SWEEPS_CACHE", str(tmp_path / "file"))
    assert digests([tmp_path / "file"]) == digests([tmp_path / "file"])


def test_many_may_hash_one_file_at_once(tmp_path: Path, quiet: None) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(10_000))
    with ThreadPoolExecutor(8) as pool:
        assert len({one for (one,) in pool.map(lambda _: digests([path]), range(40))}) == 1


def test_a_large_folder_is_said_to_be_hashed(
    tmp_path: Path, quiet: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hashing, "_TOLD", 50)
    (tmp_path / "file").write_bytes(b"0" * 100)
    with caplog.at_level(logging.INFO):
        digests([tmp_path / "file"])
        digests([tmp_path / "file"])
    assert caplog.text.count("hashed in") == 1


COMMITS = ("a" * 40, "b" * 40)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache with two commits of a model; `main` is the first. There is no hub."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = cache / "models--someone--small"
    for n, commit in enumerate(COMMITS):
        at = folder(repository / "snapshots" / commit)
        write(at, {name: tensor + n for name, tensor in weights(at).items()})
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMITS[0])
    (repository / "refs" / "v2").write_text(COMMITS[1])
    return repository


def test_a_hub_model_is_the_commit_its_branch_names(hub: Path) -> None:
    main, tag = (model(Path("someone/small"), revision=name) for name in (None, "v2"))
    assert [one.fingerprint() for one in (main, tag)] == list(COMMITS)
    lm = tag.load(CPU, "float32")
    assert lm.revision == COMMITS[1]
    expected = weights(hub / "snapshots" / COMMITS[1])["transformer.wte.weight"]
    assert torch.equal(lm.model.get_input_embeddings().weight, expected)
    (hub / "refs" / "main").write_text(COMMITS[1])
    assert main.fingerprint() == COMMITS[1]


def test_a_run_is_pinned_to_the_commit_it_was_planned_with(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed("model=gpt2", "model.name=someone/small", "model.layers=5")
    settings: RunConfig = build(config, RunConfig)
    asked: list[str] = []

    def resolve(name: str, **_: object) -> ResolvedRevision:
        asked.append(name)
        return ResolvedRevision(COMMITS[1])

    monkeypatch.setattr(huggingface_hub, "resolve_revision", resolve)
    later, now = pinned(config, settings.model)
    assert later["model"]["revision"] == now.fingerprint() == COMMITS[1]
    assert build(later, RunConfig).model.load(CPU, "float32").revision == COMMITS[1]
    assert asked == ["someone/small"]


def test_a_hub_model_that_nothing_knows_is_refused(hub: Path) -> None:
    with pytest.raises(UnreachableError, match="tried a local folder of that name and the hub"):
        model(Path("someone/large")).fingerprint()


def test_a_model_that_changes_before_it_is_loaded_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = folder(tmp_path / "m")
    original = Pretrained.load

    def load(self: Pretrained, *args: object) -> object:
        _flip(at / WEIGHTS, (at / WEIGHTS).stat().st_size - 1)
        return original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Pretrained, "load", load)
    asked = ("model=gpt2", f"model.name={at}", "model.layers=5", "method=none", "tracker=none")
    with pytest.raises(ValueError, match="changed since the run was named"):
        run(composed(*asked, f"results_dir={tmp_path / 'results'}"))
