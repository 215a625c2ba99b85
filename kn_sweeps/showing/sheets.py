"""Values that print as a title and a small table: text in a terminal, HTML in a notebook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_MOST = 20
"""Lines shown of a table; of a longer one it says how many more there are."""


@dataclass(frozen=True)
class Sheet:
    """What is shown of a value.

    Attributes:
        title: What it is, in a line.
        lines: A table; each line has as many cells as `head`.
        head: Names of its columns; none for a list of names and values.
        notes: Lines below it.
    """

    title: str
    lines: Sequence[Sequence[object]] = ()
    head: Sequence[str] = ()
    notes: Sequence[str] = ()

    def text(self) -> str:
        """As text, with aligned columns."""
        shown = [[str(cell) for cell in line] for line in self._shown()]
        every = ([list(self.head)] if self.head else []) + shown
        widths = [max(map(len, column)) for column in zip(*every, strict=True)]
        lines = [
            "  ".join(cell.ljust(wide) for cell, wide in zip(line, widths, strict=True)).rstrip()
            for line in every
        ]
        return "\n".join([self.title, *(f"  {line}" for line in [*lines, *self._below()])])

    def html(self) -> str:
        """As HTML; every text is escaped."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.head)
        # Without a head, the first column names what the second one is.
        first = "td" if self.head else "th"
        body = "".join(
            "<tr>"
            + "".join(
                f"<{tag}>{escape(str(cell))}</{tag}>"
                for tag, cell in zip([first, *["td"] * (len(line) - 1)], line, strict=True)
            )
            + "</tr>"
            for line in self._shown()
        )
        table = f"<thead><tr>{head}</tr></thead>" * bool(head) + f"<tbody>{body}</tbody>"
        notes = "".join(f"<div>{escape(note)}</div>" for note in self._below())
        return (
            f"<div><div><b>{escape(self.title)}</b></div>"
            + f"<table>{table}</table>" * bool(self.lines)
            + f"{notes}</div>"
        )

    def _shown(self) -> Sequence[Sequence[object]]:
        return self.lines[:_MOST]

    def _below(self) -> list[str]:
        more = len(self.lines) - _MOST
        return ([f"and {more} more"] if more > 0 else []) + list(self.notes)


class Shown(ABC):
    """A value that says what it is by a sheet."""

    __slots__ = ()

    @abstractmethod
    def sheet(self) -> Sheet:
        """What is shown of it."""

    def __repr__(self) -> str:
        return self.sheet().text()

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self.sheet().html()


def probability(value: float) -> str:
    """A probability in four digits after the point, or scientific where those show nothing."""
    return f"{value:.4f}" if value == 0 or value >= 1e-4 else f"{value:.1e}"
