"""What a number of a metric is, in words: the one place that tables, figures and docs read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

SHARE = "share of probes"
NATS = "nats"
PROBABILITY = "probability"
CORRELATION = "rank correlation"


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One number that a metric gives.

    Attributes:
        name: As in a summary. A part in `<...>` stands for anything, as in `locality_<group>`;
            `meaning` may name it too.
        meaning: What it is, in a line.
        unit: What it is in, the label of an axis: a share, nats, a count of something.
        better: Whether more of it speaks for an edit (or for the model), or less; None where it
            describes and does not judge.
        counts: What `n` counts.
        headline: Whether it is among the few that a table shows unasked.
    """

    name: str
    meaning: str
    unit: str
    counts: str
    better: Literal["higher", "lower"] | None = None
    headline: bool = False

    def __str__(self) -> str:
        """Its meaning with the unit and the direction, in a line."""
        better = f"; {self.better} is better" if self.better else ""
        return f"{self.meaning} ({self.unit}{better})"

    @property
    def is_share(self) -> bool:
        """Whether it lies between 0 and 1."""
        return self.unit.startswith("share of")

    def named(self, name: str) -> Quantity | None:
        """This quantity under a name that a summary has; None where that is another's."""
        pattern = re.sub(r"<(\w+)>", r"(?P<\1>.+)", self.name)
        found = re.fullmatch(pattern, name)
        if found is None:
            return None
        return replace(self, name=name, meaning=_filled(self.meaning, found.groupdict()))

    def under(self, ending: str, condition: str, *, unit: str | None = None) -> Quantity:
        """The same number under a condition, with an ending to its name; never a headline."""
        return replace(
            self,
            name=f"{self.name}_{ending}",
            meaning=f"{self.meaning}; {condition}",
            unit=unit or self.unit,
            headline=False,
        )


def _filled(text: str, parts: Mapping[str, str]) -> str:
    return re.sub(r"<(\w+)>", lambda part: parts.get(part[1], part[0]), text)
