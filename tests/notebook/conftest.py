"""The tiny models as the door loads them, and a fact that they know."""

from __future__ import annotations

import pytest

import kn_sweeps as kn


@pytest.fixture(scope="session")
def tiny() -> kn.LanguageModel:
    return kn.load("tiny_gpt2", device="cpu")


@pytest.fixture(scope="session")
def tiny_bert() -> kn.LanguageModel:
    return kn.load("tiny_bert", device="cpu")


@pytest.fixture
def capital() -> kn.Case:
    return kn.fact(
        "The capital of {} is",
        "France",
        old="Paris",
        new="Rome",
        rephrase=["France's capital city is"],
        neighbour=[("The capital of Italy is", "Rome"), ("The capital of Spain is", "Madrid")],
    )
