"""The precision benchmark finds nothing between a model and itself."""

from __future__ import annotations

from benchmarks.measuring import configured_model
from benchmarks.memory import some_cases
from benchmarks.precision import compared, found
from kn_sweeps.methods.rome import Rome


def test_a_dtype_is_not_apart_from_itself() -> None:
    lm = configured_model("tiny_gpt2")
    method = Rome(layer=1, steps=2, contexts=0)
    once = found(lm, some_cases(lm, 1), method, [""], 0.1)
    numbers = compared(once, once)
    apart = [value for name, value in numbers.items() if "relative error" in name]
    assert len(apart) == 3
    assert not any(apart)
    for name, value in numbers.items():
        if "Jaccard" in name or "ratio" in name or "that are equal" in name:
            assert value == 1
    assert numbers["layers certified, share"] == numbers["the same of float32"]
