"""Fetching before submission: what is asked for, once, and every reason why not."""

from __future__ import annotations

import pytest

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
    prefetch(configs, statistics=False)
    assert sorted(fetched) == ["tiny_bert", "tiny_gpt2"]
    assert not prepared
    prefetch(configs)
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
