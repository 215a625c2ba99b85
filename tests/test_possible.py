"""What a run cannot be is refused before anything starts."""

from __future__ import annotations

import pytest

from kn_sweeps.config import RunConfig, build
from kn_sweeps.models.checkpoints import Described
from kn_sweeps.possible import refuse_impossible
from tests.test_config import composed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=kn", "method.neurons=[[1,4],[7,0]]"], "method.neurons=7: model tiny_gpt2 has no"),
        (["method=random", "method.of.neurons=[[7,0]]"], "method.of.neurons=7"),
        (["method=kn", "method.where=read", "regime=sequential"], "use method.where=everywhere"),
        (["compat=kn_thesis", "method=random", "regime=sequential"], "method.where=everywhere"),
    ],
)
def test_it_is_told_by_the_models_config(overrides: list[str], message: str) -> None:
    settings: RunConfig = build(composed(*overrides), RunConfig)
    with pytest.raises(ValueError, match=message):
        refuse_impossible(settings, Described("causal", 4))


def test_what_is_possible_passes() -> None:
    for overrides in (
        ["method=kn", "method.neurons=[[3,4]]"],
        ["method=kn", "method.where=read", "regime=batch"],
    ):
        refuse_impossible(build(composed(*overrides), RunConfig), Described("causal", 4))
