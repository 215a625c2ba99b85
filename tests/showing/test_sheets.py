"""What is shown of a value: aligned as text, escaped as HTML, cut where it is long."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kn_sweeps.edits import Dense, Joint, LowRank, NeuronScale, RankOne
from kn_sweeps.showing.sheets import Sheet, Shown, probability


@dataclass(frozen=True, repr=False)
class Thing(Shown):
    name: str

    def sheet(self) -> Sheet:
        return Sheet(f"thing {self.name}", [(self.name, 1), ("longer", 22)], ("a", "b"), ["so"])


def test_a_table_is_aligned() -> None:
    assert repr(Thing("x")) == "thing x\n  a       b\n  x       1\n  longer  22\n  so"
    assert repr([Thing("x")]).startswith("[thing x")


def test_html_escapes_every_text() -> None:
    shown = Thing("<img src=x onerror=alert(1)>")._repr_html_()
    assert "<img" not in shown
    assert shown.count("&lt;img") == 2
    sheet = Sheet("t", [("<b>", "<i>")], ("<u>", "<s>"), ["<script>"])
    assert not any(tag in sheet.html() for tag in ("<u>", "<s>", "<script>", "<i>"))
    assert "<th>&lt;b&gt;</th>" in Sheet("t", [("<b>", 1)]).html()


def test_a_long_table_says_how_much_is_not_shown() -> None:
    sheet = Sheet("t", [(n,) for n in range(25)], ("n",))
    assert "and 5 more" in sheet.text()
    assert "<td>19</td>" in sheet.html()
    assert "<td>20</td>" not in sheet.html()
    assert Sheet("nothing").text() == "nothing"
    assert "<table>" not in Sheet("nothing").html()


def test_probabilities_are_never_shown_as_nothing() -> None:
    assert [probability(p) for p in (0.0, 1.0, 0.25, 3e-7)] == [
        "0.0000",
        "1.0000",
        "0.2500",
        "3.0e-07",
    ]


def test_an_edit_shows_layers_and_norms_and_no_tensor() -> None:
    u, v = torch.randn(4, 6), torch.randn(4, 3)
    one = RankOne(2, u[0], v[0])
    low = LowRank(1, u, v)
    change = u.T @ v
    assert f"{float(change.norm()):.3g}" in repr(low)
    assert f"{float((u.T @ v).norm()):.3g}" in repr(Dense(1, change))
    assert "rank 1" in repr(one)
    joint = Joint((one, NeuronScale(((0, 5), (3, 1), (0, 2)), 0.0, "read"), low))
    lines = repr(joint).splitlines()
    assert "neurons 5, 2 times 0 where the answer is read" in repr(joint)
    assert len(lines) == 2 + 4
    assert "tensor" not in repr(joint)
