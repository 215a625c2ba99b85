"""Where a model keeps an answer: its neurons, and the states that bring it back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from kn_sweeps.attribution import causal_tracing
from kn_sweeps.attribution.attributor import Attributor
from kn_sweeps.attribution.contrast import encoder
from kn_sweeps.attribution.fellows import compared_with
from kn_sweeps.attribution.integrand import Measure
from kn_sweeps.attribution.integrated_gradients import Attribution
from kn_sweeps.cases import Case, Component, edit_probe
from kn_sweeps.measurements.tracing import Tracing
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import Encoded
from kn_sweeps.notebook.cases import listed
from kn_sweeps.showing.sheets import Sheet, Shown, probability

_TITLES: dict[Component, str] = {
    "state": "one state",
    "mlp": "MLPs in a window",
    "attention": "attentions in a window",
}


class Picture(Figure):
    """A figure that a notebook shows once, whatever its plotting settings are."""

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png", dpi=90)
        return file.getvalue()


@dataclass(frozen=True, eq=False, repr=False)
class Attributed(Shown):
    """How much each neuron adds to the probability of an answer, or to another measure of it.

    Attributes:
        text: What was asked.
        answer: The answer.
        found: All there is to know of it; see `Attribution`.
        measure: What the neurons add to.
    """

    text: str
    answer: str
    found: Attribution
    measure: Measure = "probability"

    def _measured(self, answer: str) -> str:
        if self.measure == "logit_difference":
            return f"logit of {answer} above the other answer's"
        return f"{'log ' * (self.measure == 'log_probability')}P({answer})"

    @property
    def scores(self) -> Float[Tensor, "layers d_ff"]:
        """Attr(l, i), in the measure: over a layer they add up to what its neurons add."""
        return self.found.scores

    def neurons(self, k: int = 10) -> pd.DataFrame:
        """The `k` neurons with the largest scores: `layer`, `neuron` (from 0) and `score`."""
        flat = self.scores.flatten()
        best = flat.topk(min(k, len(flat)))
        layers, neurons = divmod(best.indices.numpy(), self.scores.shape[1])
        return pd.DataFrame({"layer": layers, "neuron": neurons, "score": best.values.numpy()})

    def sheet(self) -> Sheet:
        """The neurons that add most, and whether the numbers are certified."""
        lines = [(layer, neuron, f"{score:.4f}") for layer, neuron, score in _rows(self.neurons())]
        certified = int(self.found.certified.sum())
        value = self.found.value
        shown = probability(value) if self.measure == "probability" else f"{value:.3f}"
        return Sheet(
            f"{self._measured(repr(self.answer))} = {shown} in {self.text!r}",
            lines,
            ("layer", "neuron", "adds"),
            [f"{certified} of {len(self.scores)} layers certified; all scores: .scores"],
        )

    def plot(self) -> Figure:
        """A heat map of layers and neurons, with the five that add most marked and named."""
        scores = self.scores.numpy()
        figure = Picture(figsize=(6.5, max(2.4, 1 + 0.1 * len(scores))), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(scores, **_colours(float(np.abs(scores).max())))
        best = self.neurons(5)
        axes.scatter(best["neuron"], best["layer"], s=60, facecolors="none", edgecolors="black")
        named = ", ".join(f"({layer}, {neuron})" for layer, neuron, _ in _rows(best))
        axes.set_title(_plain(f"{self.text}  {self.answer}\nmost: {named}"), fontsize=9)
        axes.set_yticks(_some(len(scores)))
        axes.set(xlabel="neuron", ylabel="layer")
        figure.colorbar(image, ax=axes, label=_plain(f"adds to {self._measured(self.answer)}"))
        return figure


@dataclass(frozen=True, eq=False, repr=False)
class Traced(Shown):
    """Which states, restored under a corrupted subject, bring an answer back.

    Attributes:
        answer: The answer.
        tokens: The prompt's tokens, as text; those of the subject end with `*`.
        found: Probabilities, and effects by component, position and layer; see `Trace`.
    """

    answer: str
    tokens: tuple[str, ...]
    found: causal_tracing.Trace

    def table(self, component: Component = "state") -> pd.DataFrame:
        """What restoring one place adds to the answer's probability: tokens x layers."""
        if component not in self.found.effects:
            known = ", ".join(self.found.effects)
            raise ValueError(f"component {component!r} was not traced; choose from {known}")
        values = self.found.effects[component].numpy()
        layers = pd.RangeIndex(values.shape[1], name="layer")
        return pd.DataFrame(values, pd.Index(self.tokens, name="token"), layers)

    def sheet(self) -> Sheet:
        """The place of each component that brings back most."""
        lines = []
        for component in self.found.effects:
            values = self.table(component).to_numpy()
            token, layer = np.unravel_index(values.argmax(), values.shape)
            lines.append((component, self.tokens[token], layer, f"{values[token, layer]:+.4f}"))
        clean, corrupted = probability(self.found.clean), probability(self.found.corrupted)
        return Sheet(
            f"P({self.answer!r}) = {clean}, with a corrupted subject {corrupted}",
            lines,
            ("restored", "best token", "best layer", "brings back"),
            ["all places: .table(component)"],
        )

    def plot(self) -> Figure:
        """A heat map of tokens and layers for each component."""
        panels = len(self.found.effects)
        size = (2.2 * panels + 1.6, 1.1 + 0.2 * len(self.tokens))
        figure = Picture(figsize=size, layout="constrained")
        largest = max(float(one.abs().max()) for one in self.found.effects.values())
        line = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
        for axes, component in zip(line, self.found.effects, strict=True):
            values = self.table(component).to_numpy()
            image = axes.imshow(values, **_colours(largest))
            axes.set_title(_TITLES[component], fontsize=9)
            axes.set_xticks(_some(values.shape[1]))
            axes.set_xlabel("layer")
        line[0].set_yticks(range(len(self.tokens)), [_plain(token) for token in self.tokens])
        figure.colorbar(image, ax=list(line), label=_plain(f"adds to P({self.answer})"))
        return figure


def attribute(
    lm: LanguageModel,
    case: Case,
    *,
    answer: Literal["old", "new"] = "old",
    **settings: Any,
) -> Attributed:
    """Attribute an answer to neurons, by integrated gradients on the case's own prompt.

    Args:
        lm: The model; edits in effect count.
        case: The case.
        answer: Which of its answers.
        **settings: Other fields of `Attributor`, such as `kind="grad_x_act"`.

    Raises:
        ValueError: If the case cannot be asked of this model, or a setting does not exist.
    """
    from kn_sweeps.config import build

    if answer not in ("old", "new"):
        raise ValueError(f"answer={answer!r}; choose from old, new")
    attributor = build(settings, Attributor)
    (case,) = listed(case)
    probe = edit_probe(case)
    answers = (probe.old, probe.new) if answer == "old" else (probe.new, probe.old)
    encode = encoder(lm, attributor.measure)
    prompt, against = encode(probe.query, *answers), None
    if attributor.compares:
        against = [compared_with(attributor.kind, case, probe.query, answers, encode)]
    (found,) = attributor(lm, [prompt], against)
    return Attributed(probe.query.text, answers[0], found, attributor.measure)


def trace(lm: LanguageModel, case: Case, *, seed: int = 0, **settings: Any) -> Traced:
    """Corrupt the subject of a case's own prompt and restore one state after the other.

    Args:
        lm: The model; edits in effect count.
        case: The case; its old answer is traced.
        seed: The noise is drawn from it.
        **settings: Other fields of `measurements.tracing.Tracing`: `noise`, in standard deviations
            of the embeddings of this subject, `samples`, `window`, `components`, `max_rows`.

    Raises:
        ValueError: If the prompt has no subject, the case cannot be asked of this model, or a
            setting does not exist.
    """
    from kn_sweeps.config import build

    how = build(settings, Tracing)
    (case,) = listed(case)
    probe = edit_probe(case)
    prompt = lm.encode(probe.query, probe.old)
    if prompt.subject is None:
        raise ValueError("causal tracing corrupts the subject, and the query has none")
    found = causal_tracing.trace(
        lm,
        prompt,
        noise=how.noise * causal_tracing.subject_spread(lm, [prompt]),
        seed=seed,
        samples=how.samples,
        components=how.components,
        window=how.window,
        max_rows=how.max_rows,
    )
    ids = prompt.prompt_ids if lm.kind == "causal" else prompt.ids
    return Traced(probe.old, _named(lm, prompt, ids), found)


def _named(lm: LanguageModel, prompt: Encoded, ids: Sequence[int]) -> tuple[str, ...]:
    assert prompt.subject is not None
    texts = [str(lm.tokenizer.decode([token])).strip() for token in ids]
    if lm.kind == "masked":
        texts[slice(*prompt.target)] = ["(answer)"] * (prompt.target[1] - prompt.target[0])
    subject = range(*prompt.subject)
    return tuple(f"{text}*" if n in subject else text for n, text in enumerate(texts))


def _rows(table: pd.DataFrame) -> list[tuple[int, int, float]]:
    return [tuple(row) for row in table.itertuples(index=False, name=None)]


def _colours(largest: float) -> dict[str, Any]:
    """How a matrix is drawn whose values have signs."""
    limit = max(largest, 1e-12)
    scale = {"vmin": -limit, "vmax": limit, "cmap": "PuOr_r"}
    return {"aspect": "auto", "interpolation": "nearest", **scale}


def _plain(text: str) -> str:
    """Text that is not read as a formula."""
    return text.replace("$", r"\$")


def _some(count: int) -> list[int]:
    """About eight of the numbers from 0, evenly."""
    return list(range(0, count, max(1, count // 8)))
