"""Attributions are computed once, survive other processes, and never hide a change."""

from __future__ import annotations

import errno
import multiprocessing
import os
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import kn_sweeps.attribution.attributor as module
from kn_sweeps.attribution.attributor import Attributor, Kind
from kn_sweeps.attribution.cache import AttributionCache, attributions_kept
from kn_sweeps.attribution.integrated_gradients import Attribution
from kn_sweeps.attribution.quadrature import Quadrature
from kn_sweeps.cases import Query
from kn_sweeps.commands import cache as command
from kn_sweeps.edits import NeuronScale
from kn_sweeps.interventions import applied, merge
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import Encoded
from tests.conftest import random_lm


@pytest.fixture
def lm() -> LanguageModel:
    return random_lm("llama")


@pytest.fixture
def prompts(lm: LanguageModel) -> list[Encoded]:
    query = Query("The capital of France is ", ".")
    return [lm.encode(query, target) for target in ("Paris", "New Delhi")]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts were attributed, a call."""
    counts: list[int] = []
    original = module.integrated_gradients

    def counted(lm: LanguageModel, prompts: list[Encoded], *args: object, **kwargs: object):  # noqa: ANN202
        counts.append(len(prompts))
        return original(lm, prompts, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "integrated_gradients", counted)
    return counts


def _equal(one: Attribution, other: Attribution) -> bool:
    return all(
        torch.equal(torch.as_tensor(getattr(one, f.name)), torch.as_tensor(getattr(other, f.name)))
        for f in fields(Attribution)
    )


def test_a_cached_attribution_is_the_same_bit_for_bit(
    lm: LanguageModel, prompts: list[Encoded], computed: list[int], tmp_path: Path
) -> None:
    attribute = Attributor()
    with attributions_kept(AttributionCache(tmp_path)):
        first = attribute(lm, prompts)
        again = attribute(lm, [*prompts, prompts[0]])
    assert computed == [2]
    assert all(_equal(a, b) for a, b in zip([*first, first[0]], again, strict=True))


@pytest.mark.parametrize(
    "other",
    [
        Attributor(quadrature=Quadrature("riemann")),
        Attributor(quadrature=Quadrature(tol=1e-4)),
        Attributor(measure="log_probability"),
    ],
)
def test_what_changes_the_numbers_has_its_own_place(
    lm: LanguageModel,
    prompts: list[Encoded],
    computed: list[int],
    tmp_path: Path,
    other: Attributor,
) -> None:
    with attributions_kept(AttributionCache(tmp_path)):
        Attributor()(lm, prompts)
        other(lm, prompts)
        lm.revision, before = "another", lm.revision
        Attributor()(lm, prompts[:1])
        lm.revision = before
    assert computed == [2, 2, 1]


@pytest.mark.parametrize("kind", ["grad_x_act", "activation", "random", "log_prob_increase"])
def test_baselines_are_cached_too(
    lm: LanguageModel, prompts: list[Encoded], tmp_path: Path, kind: Kind
) -> None:
    with attributions_kept(AttributionCache(tmp_path)):
        first, again = (Attributor(kind)(lm, prompts) for _ in range(2))
    assert len(list(tmp_path.rglob("*.safetensors"))) == len(prompts)
    assert all(torch.equal(a.scores, b.scores) for a, b in zip(first, again, strict=True))


def test_every_seed_of_random_scores_has_its_own_place(
    lm: LanguageModel, prompts: list[Encoded], tmp_path: Path
) -> None:
    with attributions_kept(AttributionCache(tmp_path)):
        first, other, again = (
            Attributor("random", seed=seed)(lm, prompts[:1])[0] for seed in (0, 1, 0)
        )
    assert torch.equal(first.scores, again.scores)
    assert not torch.equal(first.scores, other.scores)


def test_an_edited_model_is_neither_read_nor_kept(
    prompts: list[Encoded], computed: list[int], tmp_path: Path
) -> None:
    random_lm.cache_clear()  # its weights are about to change
    lm = random_lm("llama")
    edit = NeuronScale(((0, 1),), 0.0)
    with attributions_kept(AttributionCache(tmp_path)):
        (plain,) = Attributor()(lm, prompts[:1])
        with applied(lm, edit):
            (hooked,) = Attributor()(lm, prompts[:1])
        merge(lm, edit)
        (merged,) = Attributor()(lm, prompts[:1])
    random_lm.cache_clear()
    assert computed == [1, 1, 1]
    assert not torch.equal(plain.scores, hooked.scores)
    torch.testing.assert_close(merged.without, hooked.without)


def test_half_a_file_is_computed_again(
    lm: LanguageModel, prompts: list[Encoded], computed: list[int], tmp_path: Path
) -> None:
    with attributions_kept(AttributionCache(tmp_path)):
        (first,) = Attributor()(lm, prompts[:1])
        (path,) = tmp_path.rglob("*.safetensors")
        path.write_bytes(path.read_bytes()[:100])
        (again,) = Attributor()(lm, prompts[:1])
        Attributor()(lm, prompts[:1])
    assert computed == [1, 1]
    assert _equal(first, again)


def test_a_full_disk_costs_the_cache_and_nothing_else(
    lm: LanguageModel,
    prompts: list[Encoded],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("kn_sweeps.attribution.cache.save_tensors", full)
    with attributions_kept(AttributionCache(tmp_path)):
        assert len(Attributor()(lm, prompts)) == 2
    assert "not cached" in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_was_not_used_for_longest_goes_first(
    lm: LanguageModel, prompts: list[Encoded], tmp_path: Path
) -> None:
    cache = AttributionCache(tmp_path)
    attribution = Attributor()(lm, prompts[:1])[0]
    for n, key in enumerate(("aa", "bb", "cc")):
        cache.put(key, attribution)
        os.utime(tmp_path / key / f"{key}.safetensors", (n, n))
    assert cache.get("aa") is not None  # used again: now the youngest
    size = (tmp_path / "aa" / "aa.safetensors").stat().st_size
    with attributions_kept(AttributionCache(tmp_path, 2 * size)):
        pass
    assert cache.get("bb") is None
    assert cache.get("aa") is not None
    assert cache.get("cc") is not None


def _put_and_get(folder: Path, attribution: Attribution) -> bool:
    cache = AttributionCache(folder)
    whole = True
    for _ in range(50):
        cache.put("key", attribution)
        found = cache.get("key")
        whole &= found is not None and _equal(found, attribution)
    return whole


def test_processes_may_share_it(lm: LanguageModel, prompts: list[Encoded], tmp_path: Path) -> None:
    attribution = Attributor()(lm, prompts[:1])[0]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        results = pool.starmap(_put_and_get, [(tmp_path, attribution)] * 3)
    assert all(results)


def test_it_is_shown_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KN_SWEEPS_CACHE", str(tmp_path))
    (tmp_path / "attributions").mkdir()
    (tmp_path / "attributions" / "x").write_bytes(b"1" * 1024**2)
    command.main([])
    assert "attributions         1 files        1.0 MiB" in capsys.readouterr().out
    command.main(["clear", "attributions"])
    assert "attributions         0 files" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main(["clear", "everything"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "lime"}, "choose from integrated_gradients, grad_x_act, activation, neurgrad"),
        ({"measure": "logit"}, "choose from probability, log_probability"),
        ({"max_rows": 0}, "max_rows must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Attributor(**arguments)  # type: ignore[arg-type]


def test_a_flipped_bit_is_computed_again(
    lm: LanguageModel, prompts: list[Encoded], computed: list[int], tmp_path: Path
) -> None:
    with attributions_kept(AttributionCache(tmp_path)):
        (first,) = Attributor()(lm, prompts[:1])
        (path,) = tmp_path.rglob("*.safetensors")
        data = path.read_bytes()
        path.write_bytes(data[:-200] + bytes([data[-200] ^ 8]) + data[-199:])
        (again,) = Attributor()(lm, prompts[:1])
    assert computed == [1, 1]
    assert _equal(first, again)


def test_scores_do_not_depend_on_what_was_cached(lm: LanguageModel, tmp_path: Path) -> None:
    texts = ("The capital of France is ", "The city is ", "this dog sees ", "Ann sees the cat in ")
    prompts = [lm.encode(Query(text, "."), target) for text in texts for target in ("Paris", "a")]
    cold = Attributor()(lm, prompts)
    with attributions_kept(AttributionCache(tmp_path)):
        for some in (prompts[:1], prompts[2:5], prompts[3:]):
            Attributor()(lm, some)
        for _ in range(2):
            warm = Attributor()(lm, prompts)
            assert all(_equal(a, b) for a, b in zip(cold, warm, strict=True))
        for path in sorted(tmp_path.rglob("*.safetensors"))[::2]:
            path.unlink()
        some_left = Attributor()(lm, prompts)
        assert all(_equal(a, b) for a, b in zip(cold, some_left, strict=True))
