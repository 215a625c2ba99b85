"""Attributions and traces by hand: what they say, and that their plots name layers and tokens."""

from __future__ import annotations

from typing import Any

import pytest

import kn_sweeps as kn


def test_an_attribution_is_complete_and_names_its_neurons(
    tiny: kn.LanguageModel, capital: kn.Case
) -> None:
    found = kn.attribute(tiny, capital)
    lost = found.found.value - found.found.without
    assert found.scores.sum(1).double() == pytest.approx(lost.numpy(), abs=1e-2)
    best = found.neurons(3)
    assert list(best.columns) == ["layer", "neuron", "score"]
    first = best.iloc[0]
    assert found.scores[int(first["layer"]), int(first["neuron"])] == found.scores.max()
    assert "P('Paris')" in repr(found)
    assert kn.attribute(tiny, capital, answer="new").answer == "Rome"
    # With the neurons suppressed that say it, it is less probable.
    neurons = tuple((int(layer), int(neuron)) for layer, neuron, _ in best.to_numpy())
    with kn.applied(tiny, kn.KnowledgeNeurons(neurons=neurons).plan(tiny, [capital])):
        assert kn.attribute(tiny, capital).found.value < found.found.value


@pytest.mark.parametrize("which", ["tiny", "tiny_bert"])
def test_a_trace_has_a_row_for_every_token_that_is_read(
    which: str, request: pytest.FixtureRequest, capital: kn.Case
) -> None:
    lm = request.getfixturevalue(which)
    found = kn.trace(lm, capital, samples=2, components=("state",))
    table = found.table()
    assert [token for token in table.index if token.endswith("*")] == ["France*"]
    assert list(table.columns) == list(range(lm.architecture.layers))
    assert found.found.corrupted < found.found.clean
    assert table.to_numpy().max() <= found.found.clean
    shown = [text.get_text() for text in found.plot().axes[0].get_yticklabels()]
    assert shown == list(table.index)
    with pytest.raises(ValueError, match="component 'mlp' was not traced; choose from state"):
        found.table("mlp")


def test_pictures_show_themselves_in_a_notebook(tiny: kn.LanguageModel, capital: kn.Case) -> None:
    for found in (kn.attribute(tiny, capital, kind="activation"), kn.trace(tiny, capital)):
        figure: Any = found.plot()
        assert figure._repr_png_().startswith(b"\x89PNG")
        assert figure.axes[0].get_xlabel() in ("neuron", "layer")
        assert "<table>" in found._repr_html_()


@pytest.mark.parametrize(
    ("ask", "settings", "message"),
    [
        ("attribute", {"answer": "both"}, "answer='both'; choose from old, new"),
        ("attribute", {"kind": "shap"}, "kind='shap'"),
        ("attribute", {"nodes": 3}, "unknown key nodes"),
        ("trace", {"samples": 0}, "samples must be at least 1, got 0"),
        ("trace", {"component": ["mlp"]}, r"unknown key component \(did you mean components\?\)"),
        ("trace", {"components": "mlp"}, r"expected a list; write components=\[mlp\]"),
    ],
)
def test_a_setting_that_does_not_exist_is_refused(
    ask: str, settings: dict[str, Any], message: str, tiny: kn.LanguageModel, capital: kn.Case
) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(kn, ask)(tiny, capital, **settings)
