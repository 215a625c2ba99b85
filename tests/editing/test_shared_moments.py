"""Second moments of others are those of the model, or are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kn_sweeps.editing.second_moment import TextSource, second_moments
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.records.cache import cache_directory
from kn_sweeps.records.integrity import load_tensors, save_tensors
from tests.conftest import WORDS, random_lm

NAME = "transformer.h.{}.mlp.c_proj_float32_mom2_100000.npz"


@pytest.fixture
def lm() -> LanguageModel:
    return random_lm("gpt2")


@pytest.fixture(autouse=True)
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TextSource:
    monkeypatch.setenv("KN_SWEEPS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "texts.txt"
    draw = np.random.default_rng(0)
    path.write_text("\n".join(" ".join(draw.choice(WORDS, 9)) for _ in range(40)))
    return TextSource(str(path))


def published(folder: Path, layer: int, total: torch.Tensor, count: int) -> Path:
    """An archive as ROME's code writes it."""
    folder.mkdir(exist_ok=True)
    path = folder / NAME.format(layer)
    constructor = "util.runningstats.SecondMoment()"
    np.savez(
        path,
        **{"mom2.constructor": constructor, "mom2.count": count, "mom2.mom2": total.numpy()},
        sample_size=100000,
    )
    return path


def test_published_sums_give_the_moment_that_they_are_of(
    lm: LanguageModel, texts: TextSource, tmp_path: Path
) -> None:
    expected = second_moments(lm, [0, 2], texts)
    for one in expected:
        published(tmp_path / "stats", one.layer, one.matrix.float() * one.tokens, one.tokens)
    found = second_moments(lm, [0, 2], TextSource(str(tmp_path / "stats")))
    for one, other in zip(found, expected, strict=True):
        assert (one.layer, one.tokens) == (other.layer, other.tokens)
        torch.testing.assert_close(one.matrix, other.matrix, rtol=1e-5, atol=1e-6)
        assert one.split_half != one.split_half
        key = torch.randn(lm.architecture.d_ff, dtype=torch.float64)
        torch.testing.assert_close(one.matrix @ one.solved(key), key)


def test_a_file_of_the_cache_is_read_wherever_it_was_copied(
    lm: LanguageModel, texts: TextSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = second_moments(lm, [1], texts)
    (path,) = cache_directory("second_moments").glob("*.safetensors")
    copy = tmp_path / "from-a-friend.safetensors"
    copy.write_bytes(path.read_bytes())
    monkeypatch.setenv("KN_SWEEPS_CACHE", str(tmp_path / "another"))
    (found,) = second_moments(lm, [1], TextSource(str(copy)))
    assert torch.equal(found.matrix, expected.matrix)
    assert found.split_half == expected.split_half
    about = load_tensors(copy)[1]
    assert (about["model"], about["revision"], about["layer"]) == ("gpt2", "random", 1)
    assert about["source"]["name"] == texts.name


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("revision", "other", "its revision is 'other', expected 'random'"),
        ("dtype", "torch.float32", "its dtype"),
        ("done", False, "its done is False"),
        ("layer", 2, "0 files are of layer 1"),
    ],
)
def test_what_is_of_another_model_or_not_whole_is_refused(
    lm: LanguageModel, texts: TextSource, tmp_path: Path, name: str, value: object, why: str
) -> None:
    second_moments(lm, [1], texts)
    (path,) = cache_directory("second_moments").glob("*.safetensors")
    tensors, about = load_tensors(path)
    other = tmp_path / "other.safetensors"
    save_tensors(other, tensors, {**about, name: value})
    with pytest.raises(ValueError, match=why):
        second_moments(lm, [1], TextSource(str(other)))


def test_archives_that_do_not_fit_are_refused(lm: LanguageModel, tmp_path: Path) -> None:
    wide = lm.architecture.d_ff
    small = published(tmp_path / "small", 1, torch.eye(wide - 1), 9)
    with pytest.raises(ValueError, match="it is of another model"):
        second_moments(lm, [1], TextSource(str(small)))
    odd = published(tmp_path / "odd", 1, torch.eye(wide).roll(1, 0), 900)
    with pytest.raises(ValueError, match="no second moment"):
        second_moments(lm, [1], TextSource(str(odd)))
    with pytest.raises(ValueError, match="0 files are of layer 2"):
        second_moments(lm, [2], TextSource(str(odd)))
    broken = tmp_path / NAME.format(1)
    broken.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="no archive of ROME's statistics"):
        second_moments(lm, [1], TextSource(str(broken)))
