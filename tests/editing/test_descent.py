"""Optimisations side by side: each ends by itself and is what it would be alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kn_sweeps.editing.descent import descend

SETTINGS: dict[str, Any] = {"steps": 40, "learning_rate": 0.1, "enough": 0.05, "told": "step"}


class Bowls:
    """Squared distances of some points from 0, and who was asked for them when."""

    def __init__(self, *starts: Sequence[float]) -> None:
        self.points = [torch.tensor(start, requires_grad=True) for start in starts]
        self.asked: list[list[int]] = []
        self.moved: list[list[int]] = []

    def losses(self, going: Sequence[int]) -> Tensor:
        self.asked.append(list(going))
        return torch.stack([self.points[number].square().sum() for number in going])

    def descend(self, **changes: Any) -> dict[int, str]:
        def constrain(numbers: Sequence[int]) -> None:
            self.moved.append(list(numbers))

        return descend(self.points, self.losses, constrain, **(SETTINGS | changes))


def test_what_is_low_enough_stays_as_it_is_while_others_go_on() -> None:
    bowls = Bowls([0.1, 0.1], [1.0, -1.0], [0.4, 0.2])
    assert bowls.descend() == {}
    assert torch.equal(bowls.points[0], torch.tensor([0.1, 0.1]))
    losses = [float(point.detach().square().sum()) for point in bowls.points]
    # Each stopped where it was first low enough: one step of at most .1 each way below.
    assert all(0.005 < loss < 0.05 for loss in losses)
    assert bowls.asked[0] == [0, 1, 2]
    assert bowls.asked[-1] == [1]
    assert len(bowls.asked) < 41
    assert all(0 not in moved for moved in bowls.moved)


def test_each_is_what_it_would_be_alone() -> None:
    starts = ([0.5, -0.3], [2.0, 1.0], [0.3, 0.9])
    together = Bowls(*starts)
    together.descend()
    for start, point in zip(starts, together.points, strict=True):
        alone = Bowls(start)
        alone.descend()
        assert torch.equal(alone.points[0], point)


def test_what_diverges_is_told_and_left_and_the_others_go_on() -> None:
    bowls = Bowls([1.0], [float("nan")], [1.5])
    assert bowls.descend() == {1: "the loss became nan at step 0"}
    assert [float(bowls.points[n].detach().square().sum()) < 0.05 for n in (0, 2)] == [True, True]
    assert bowls.asked[1] == [0, 2]


def test_what_diverges_with_the_last_step_is_seen_where_that_is_judged() -> None:
    for judged, told in ((False, {}), (True, {0: "the loss became inf at step 2"})):
        bowls = Bowls([1.0])

        def constrain(_: Sequence[int], bowls: Bowls = bowls) -> None:
            with torch.no_grad():
                bowls.points[0].mul_(1e15)  # its square is infinite after the second time

        settings = SETTINGS | {"steps": 2, "judged": judged}
        assert descend(bowls.points, bowls.losses, constrain, **settings) == told
        assert len(bowls.asked) == 2 + judged


def test_every_step_is_constrained() -> None:
    bowls = Bowls([3.0], [4.0])
    bowls.descend(steps=3)
    assert bowls.moved == [[0, 1]] * 3
