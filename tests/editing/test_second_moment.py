"""Second moments equal plain sums, go on where they stopped, and say when they cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import kn_sweeps.editing.second_moment as module
from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.data.texts import texts_of
from kn_sweeps.editing.second_moment import SecondMoment, TextSource, second_moments
from kn_sweeps.editing.values import optimised
from kn_sweeps.edits import RankOne
from kn_sweeps.interventions import applied, recorded
from kn_sweeps.methods.rome import Rome
from kn_sweeps.models.language_model import LanguageModel
from tests.conftest import WORDS
from tests.reference import rome as reference

QUERY = Query("The capital of France is ", ".", (15, 21))
CASE = Case("c0", "P36", "fact", Probe(QUERY, "Paris", "Rome", "edit"), (QUERY,))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KN_SWEEPS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path: Path) -> TextSource:
    """Sixty texts of random words."""
    draw = torch.Generator().manual_seed(0)
    lines = []
    for _ in range(60):
        size = int(torch.randint(3, 12, (1,), generator=draw))
        words = torch.randint(len(WORDS), (size,), generator=draw).tolist()
        lines.append(" ".join(WORDS[i] for i in words))
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join(lines) + "\n")
    return TextSource(str(path))


def _naive(lm: LanguageModel, layer: int, source: TextSource) -> tuple[torch.Tensor, int]:
    total = torch.zeros(lm.architecture.d_ff, lm.architecture.d_ff, dtype=torch.float64)
    tokens = 0
    for text in texts_of(source.name):
        ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
        with torch.no_grad(), recorded(lm, [layer]) as seen:
            lm.model(input_ids=ids)
        for key in seen[layer][0][0]:
            total += torch.outer(key, key)
            tokens += 1
    return total / tokens, tokens


def test_it_is_the_mean_outer_product_of_all_keys(
    some_lm: LanguageModel, source: TextSource
) -> None:
    for layer, moment in zip((0, 2), second_moments(some_lm, [0, 2], source), strict=True):
        expected, tokens = _naive(some_lm, layer, source)
        assert moment.tokens == tokens
        torch.testing.assert_close(moment.matrix, expected)
        assert 0 < moment.split_half < 1
        key = torch.randn(some_lm.architecture.d_ff, dtype=torch.float64)
        torch.testing.assert_close(moment.matrix @ moment.solved(key), key)


def test_it_is_computed_once_and_resumed(
    lm_of,  # noqa: ANN001
    source: TextSource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = lm_of("gpt2")
    monkeypatch.setattr(lm, "batch_size", 8)
    monkeypatch.setattr(module, "_SAVE_EVERY", 16)
    read: list[int] = []
    original = module.texts_of

    def breaking(name: str, count: int | None, at: int) -> Iterator[str]:
        for n, text in enumerate(original(name, count)):
            if n == at:
                raise KeyboardInterrupt
            read.append(n)
            yield text

    monkeypatch.setattr(module, "texts_of", lambda *of: breaking(*of, 40))
    with pytest.raises(KeyboardInterrupt):
        second_moments(lm, [1], source)
    monkeypatch.setattr(module, "texts_of", lambda *of: breaking(*of, 1000))
    (resumed,) = second_moments(lm, [1], source)
    read.clear()
    (cached,) = second_moments(lm, [1], source)
    assert not read
    assert torch.equal(cached.matrix, resumed.matrix)
    torch.testing.assert_close(resumed.matrix, _naive(lm, 1, source)[0])


def test_too_little_text_is_refused(some_lm: LanguageModel, source: TextSource) -> None:
    few = TextSource(source.name, samples=2)
    with pytest.raises(ValueError, match="tokens for 40 neurons; give it more text"):
        second_moments(some_lm, [0], few)


def test_a_singular_one_is_refused_when_it_is_used() -> None:
    keys = torch.randn(3, 5, dtype=torch.float64)
    singular = SecondMoment(4, keys.T @ keys / 3, 100, 0.1)
    with pytest.raises(ValueError, match="second moment of layer 4 is not positive definite"):
        singular.solved(torch.ones(5))


def test_a_text_source_that_does_not_exist_is_refused(lm_of, tmp_path: Path) -> None:  # noqa: ANN001
    for name in (str(tmp_path), "no/such-dataset"):
        with pytest.raises(ValueError, match="no .txt file|neither `bundled`"):
            second_moments(lm_of("gpt2"), [0], TextSource(name))


def test_an_edited_model_has_none(some_lm: LanguageModel, source: TextSource) -> None:
    sizes = (some_lm.architecture.d_ff, some_lm.architecture.d_model)
    edit = RankOne(0, *(torch.ones(n) for n in sizes))
    with applied(some_lm, edit), pytest.raises(ValueError, match="of the unedited model"):
        second_moments(some_lm, [0], source)


def test_rome_uses_it_as_the_reference_does(some_lm: LanguageModel, source: TextSource) -> None:
    method = Rome(layer=1, steps=3, contexts=0, second_moment=source)
    edit = method.plan(some_lm, [CASE], seed=0).edits["c0"]
    assert isinstance(edit, RankOne)
    (value,) = optimised(some_lm, [CASE], [""], method.objective())[0].values()
    (moment,) = second_moments(some_lm, [1], source)
    projection = some_lm.architecture.mlp_output(1)
    key = value.keys[0]
    u, v = reference.solve(projection, key, key, value.v_star, moment.matrix)
    torch.testing.assert_close(edit.u.double(), u, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(edit.v.double(), v, rtol=1e-5, atol=1e-5)


def test_the_bundled_text_is_enough_for_a_tiny_model() -> None:
    texts = list(texts_of("bundled"))
    assert texts == list(texts_of("bundled"))
    assert len(texts) > 10_000


@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_one_is_named_and_summed_again(
    lm_of,  # noqa: ANN001
    source: TextSource,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    cut: bool,
) -> None:
    (before,) = second_moments(lm_of("gpt2"), [1], source)
    (path,) = tmp_path.rglob("*.safetensors")
    data = path.read_bytes()
    # Far behind the header: the file can be read, and only its numbers are others.
    at = len(data) - 100
    path.write_bytes(data[:at] if cut else data[:at] + bytes([data[at] ^ 64]) + data[at + 1 :])
    (again,) = second_moments(lm_of("gpt2"), [1], source)
    assert torch.equal(again.matrix, before.matrix)
    assert f"{path} is damaged" in caplog.text
    assert path.with_name(f"{path.name}.damaged").is_file()
