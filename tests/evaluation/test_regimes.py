"""How many cases are edited and scored in one step."""

from __future__ import annotations

from kn_sweeps.evaluation.regimes import Steps


def test_steps_grow_and_are_cut_where_they_would_take_too_long() -> None:
    def cut(seconds_a_case: float) -> list[int]:
        steps = Steps(str, list(range(60)), "single", None, step_s=100)  # type: ignore[arg-type]
        sizes: list[int] = []
        last = None
        while steps:
            step = steps.take(steps.size(len(sizes), last, None))
            sizes.append(len(step))
            last = {"cases": len(step), "seconds": seconds_a_case * len(step)}
        assert sum(sizes) == 60
        return sizes

    assert cut(1) == [1, 4, 16, 16, 16, 7]
    assert cut(100 / 16) == cut(1)
    assert cut(10) == [1, 4, *[8] * 6, 7]
    assert cut(1000) == [1] * 60
