"""Fetching before submission: what is asked for, once, and every reason why not."""

from __future__ import annotations

from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import ResolvedRevision

from kn_sweeps.config import RunConfig, build
from kn_sweeps.methods.memit import Memit
from kn_sweeps.models.checkpoints import Described
from kn_sweeps.models.pretrained import Bundled
from kn_sweeps.sweeps import prefetch as module
from kn_sweeps.sweeps.prefetch import prefetch
from tests.test_config import composed


def test_models_data_and_statistics_are_fetched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    prepared: list[str] = []
    original = Bundled.fetch

    def fetch(self: Bundled) -> str:
        fetched.append(self.label)
        return original(self)

    monkeypatch.setattr(Memit, "prepare", lambda _, lm, seed: prepared.append(f"{lm.name} {seed}"))
    sets = [
        (f"model={model}", f"method={method}", "dataset=pararel", "dataset.relations=[P36]")
        for model in ("tiny_gpt2", "tiny_bert")
        for method in ("none", "memit")
    ]
    configs = [composed(*one, f"seed={seed}") for one in sets for seed in (0, 1)]
    monkeypatch.setattr(Bundled, "described", lambda _: Described("causal", 5))
    monkeypatch.setattr(Bundled, "fetch", fetch)
    monkeypatch.setattr(module, "LastLoaded", lambda: lambda model, *_: _Named(model.label))
    prefetch(configs)
    assert sorted(fetched) == ["tiny_bert", "tiny_gpt2"]
    assert sorted(prepared) == ["tiny_bert 0", "tiny_gpt2 0"]


class _Named:
    def __init__(self, name: str) -> None:
        self.name = name


def test_the_kind_is_told_without_loading() -> None:
    for label, kind in (("tiny_bert", "masked"), ("tiny_gpt2", "causal")):
        model = Bundled(label=label)
        assert model.described() == Described(kind, 5)  # type: ignore[arg-type]


def test_every_reason_is_given_once() -> None:
    wrong = ("method=kn", "dataset.paradigms=[determiner_noun_agreement_2]")
    configs = [composed(*wrong, f"seed={n}") for n in (0, 1)]
    configs.append(composed("dataset=pararel", "dataset.relations=[P361]"))
    with pytest.raises(ValueError, match="no causal LM can be edited on") as error:
        prefetch(configs)
    assert "unknown relation 'P361'" in str(error.value)
    assert len(str(error.value).splitlines()) == 2


def test_a_hub_model_is_downloaded_without_code_at_its_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def download(name: str, **more: Any) -> str:
        asked.append((name, more))
        return str(Bundled(label="tiny_gpt2").fetch())

    commit = "0123456789abcdef0123456789abcdef01234567"
    resolved = ResolvedRevision(commit)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub, "resolve_revision", lambda *_, **__: resolved)
    model = build(composed("model=gpt2_xl"), RunConfig).model
    model.fetch()
    ((name, more),) = asked
    assert (name, more["revision"]) == (model.name, commit)
    assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in more["allow_patterns"])

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ValueError, match=r"model\.name=/path/to/folder"):
        model.fetch()
