"""Suppressing what was located for a number: what becomes of 24 modifiers (figure 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kn_sweeps.data.determiners import MODIFIERS
from kn_sweeps.metrics.bootstrap import Bootstrap
from kn_sweeps.metrics.significance import holm, paired_test

from ..runs import Run, about
from .drawing import COLOURS, GREY, PAGE, Drawing, alone, by_model, dots, legend

LEVEL = 0.05


def study(runs: Sequence[Run]) -> Iterator[Drawing]:
    """A figure a model: relative change of every modifier's probability, beside random neurons."""
    fitting = [
        run
        for run in runs
        if run.dataset == "determiners"
        and run.setting("dataset.by") == "number"
        and alone(run)
        and not run.results.of("elsewhere").empty
    ]
    for model, some in by_model(fitting):
        changes = [_changes(run) for run in some]
        random = [
            one for run, one in zip(some, changes, strict=True) if run.method.startswith("random")
        ]
        control = random[0] if random else None
        numbers = pd.concat(
            [_numbers(run, one, control) for run, one in zip(some, changes, strict=True)],
            ignore_index=True,
        )
        for name in ("p", "p_vs_random"):
            families = numbers[numbers[name].notna()].groupby(["method", "suppressed"])[name]
            numbers[f"{name}_holm"] = families.transform(holm)
        yield Drawing(
            f"suppress_number_neuron_{model}",
            numbers,
            _figure(model, numbers),
            more={"by_number": _by_number(some)},
        )


def _changes(run: Run) -> pd.DataFrame:
    """A row a sentence and modifier: relative change of its probability, (post - pre) / pre."""
    rows = run.results.of("elsewhere")
    change = rows["post_log_prob_old"] - rows["pre_log_prob_old"]
    return pd.DataFrame(
        {
            "suppressed": rows["source"],
            "number": rows["group"].str.split("/").str[0],
            "modifier": rows["group"].str.split("/").str[1],
            "case": rows["case"],
            "relative": np.expm1(change),
            "in_slot": rows["old"] == rows["group"].str.split("/").str[1],
            "pre": rows["pre_log_prob_old"],
            "post": rows["post_log_prob_old"],
        }
    )


def _numbers(run: Run, changes: pd.DataFrame, control: pd.DataFrame | None) -> pd.DataFrame:
    """A row a number suppressed and modifier.

    `p` tests that the probability did not move, `p_vs_random` that it moved as under suppressed
    random neurons: sentences are paired, the neurons are given.
    """
    keys = ["suppressed", "number", "modifier"]
    lines = []
    for (suppressed, number, modifier), rows in changes.groupby(keys):
        estimate = Bootstrap().mean(rows["relative"], rows["case"])
        lines.append(
            {
                **about(run),
                "suppressed": suppressed,
                "number": number,
                "modifier": modifier,
                "in_slot": bool(rows["in_slot"].all()),
                **asdict(estimate),
                "p": paired_test(rows["pre"], rows["post"]),
                "p_vs_random": _against(rows, control, run),
            }
        )
    return pd.DataFrame(lines)


def _against(rows: pd.DataFrame, control: pd.DataFrame | None, run: Run) -> float:
    """The p-value of equal changes under random neurons; NaN for the control itself."""
    if control is None or run.method.startswith("random"):
        return float("nan")
    both = rows.merge(control, on=["suppressed", "number", "modifier", "case"])
    return paired_test(both["relative_y"], both["relative_x"]) if len(both) else float("nan")


def _by_number(runs: Sequence[Run]) -> pd.DataFrame:
    """The mean change of all modifiers of a number, and how it differs from the other number's."""
    lines: list[dict[str, Any]] = []
    for run in runs:
        for suppressed, rows in _changes(run).groupby("suppressed"):
            means = rows.pivot_table(index="case", columns="number", values="relative")
            other = "plural" if suppressed == "singular" else "singular"
            if {"singular", "plural"} <= set(means):
                means["own minus other"] = means[suppressed] - means[other]
            for number in means:
                estimate = Bootstrap().mean(means[number], means.index.to_numpy())
                lines.append(
                    {
                        **about(run),
                        "suppressed": suppressed,
                        "modifiers": number,
                        **asdict(estimate),
                    }
                )
    return pd.DataFrame(lines)


def _asked(numbers: pd.DataFrame) -> str:
    return "of P(modifier)" if numbers["in_slot"].all() else "of P(noun behind it)"


def _figure(model: str, numbers: pd.DataFrame) -> Figure:
    """Two panels, one a number suppressed; modifiers along them in their groups."""
    panels_of = [name for name in ("singular", "plural") if name in set(numbers["suppressed"])]
    words = [
        (number, word)
        for number, group in MODIFIERS.items()
        for word in group
        if word in set(numbers["modifier"])
    ]
    figure = Figure(figsize=(PAGE, 1.9 * len(panels_of) + 0.5), layout="constrained")
    panels = figure.subplots(len(panels_of), 1, sharex=True, squeeze=False)[:, 0]
    for panel, suppressed in zip(panels, panels_of, strict=True):
        panel.axhline(0, color="black", lw=0.6)
        tested = "p_vs_random_holm" if numbers["p_vs_random"].notna().any() else "p_holm"
        for method, rows in numbers[numbers["suppressed"] == suppressed].groupby("method"):
            control = str(method).startswith("random")
            by_word = rows.set_index("modifier")
            for n, number in enumerate(MODIFIERS):
                places = [at for at, (group, _) in enumerate(words) if group == number]
                if not places:
                    continue
                chosen = by_word.loc[[words[at][1] for at in places]]
                dots(
                    panel,
                    chosen,
                    [at + (0.2 if control else -0.1) for at in places],
                    vertical=True,
                    colour=GREY if control else COLOURS[n],
                    marker="s" if control else "o",
                    label=("random neurons" if n == 0 else None) if control else f"{number} word",
                )
                for at, (_, word) in zip(places, chosen.iterrows(), strict=True):
                    if word[tested] < LEVEL and not control:
                        top = word["high"] if word["high"] is not None else word["value"]
                        panel.annotate(
                            "*", (at - 0.1, max(top, 0)), ha="center", va="bottom", fontsize=8
                        )
        panel.set(
            title=f"{suppressed} neurons suppressed", ylabel=f"relative change\n{_asked(numbers)}"
        )
        panel.margins(y=0.15)
    panels[-1].set_xticks(range(len(words)), [word for _, word in words], rotation=45, ha="right")
    n = int(numbers["n"].max())
    against = "differs from random neurons" if tested.startswith("p_vs") else "changes"
    panels[-1].set_xlabel(
        f"{len(words)} of 24 modifiers this model can be asked; * {against}, "
        f"Holm-corrected p < {LEVEL};\nintervals over {n} sentences, the neurons given"
    )
    legend(figure, panels[0], title=model)
    return figure
