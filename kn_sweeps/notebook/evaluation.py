"""What a model answers now, and what an edit changed."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd
import torch

from kn_sweeps.cases import Case, Intent, Query
from kn_sweeps.edits import Edit
from kn_sweeps.evaluation.evaluate import Freely
from kn_sweeps.evaluation.evaluate import evaluate as rows_of
from kn_sweeps.evaluation.regimes import Steps
from kn_sweeps.evaluation.selection import scorable
from kn_sweeps.metrics.base import Results, measured
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.notebook.cases import asked, listed
from kn_sweeps.notebook.presets import default_metrics
from kn_sweeps.plans import Plan
from kn_sweeps.row import Row, rows_frame
from kn_sweeps.showing.sheets import Sheet, Shown, probability


@torch.inference_mode()
def top(lm: LanguageModel, prompt: Case | Query | str, k: int = 5) -> pd.DataFrame:
    """The likeliest beginnings of an answer, as the model is now: with the edits in effect.

    Args:
        lm: The model.
        prompt: A case, whose own prompt is asked; or a text, whose answer follows it or stands
            where it has `___`.
        k: How many.

    Returns:
        By rank from 1: `token`, the answer's first, as text with its blanks as ␣; its
        `probability`; and, of a case, whether it begins its `old` or `new` answer (`answer`).

    Raises:
        ValueError: If the prompt cannot be tokenised.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k must be a whole number from 1, got {k!r}")
    query = asked(prompt)
    open_ = lm.encode_open(query)
    at = open_.target[0] - (lm.kind == "causal")
    ids = open_.prompt_ids if lm.kind == "causal" else open_.ids
    found = lm.log_probs(lm.batch([ids]), [0], [at])[0].exp().topk(k)
    tokens = found.indices.tolist()
    table: dict[str, list[Any]] = {
        "token": [str(lm.tokenizer.decode([token])).replace(" ", "␣") for token in tokens],
        "probability": found.values.tolist(),
    }
    if isinstance(prompt, Case) and prompt.edit is not None:
        begins: dict[int, str] = {}
        for name, answer in (("old", prompt.edit.old), ("new", prompt.edit.new)):
            first = lm.encode(query, answer).target_ids[0]
            begins[first] = f"{begins[first]}, {name}" if first in begins else name
        table["answer"] = [begins.get(token, "") for token in tokens]
    return pd.DataFrame(table, index=pd.RangeIndex(1, k + 1, name="rank"))


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Shown):
    """What was asked, and answered before and after an edit.

    Attributes:
        rows: One row a probe, with the columns of rows.parquet (docs/metrics.md).
        located: What the edits' neurons are, as neurons.json has them.
        attributions: By source, the scores of its prompts.
    """

    rows: pd.DataFrame
    located: list[dict[str, Any]] = field(default_factory=list)
    attributions: Mapping[str, Any] = field(default_factory=dict)

    def metrics(self) -> pd.DataFrame:
        """Every metric that a run computes, as in its summary.json.

        Returns:
            By metric: `value`, the ends of its interval `low` and `high`, and `n`, of how many
            rows; NaN where there is none, such as the interval of a single edit.
        """
        results = Results(self.rows, self.located, self.attributions)
        found = measured(default_metrics(), results)
        table = pd.DataFrame.from_dict(found, orient="index", columns=["value", "low", "high", "n"])
        return table.astype({"value": float, "low": float, "high": float})

    def sheet(self) -> Sheet:
        """Prompts, answers before and after, and the probabilities of old and new."""
        lines = [tuple(_cells(row)) for row in self.rows.to_dict("records")]
        edits = self.rows["edit"].nunique()
        intent = self.rows["intent"].iloc[0]
        title = f"{len(lines)} probes under {edits} edit{'s' * (edits != 1)} to {intent}"
        head = ("asked", "text", "before", "after", "old", "P(old)", "new", "P(new)")
        return Sheet(title, lines, head, ["all columns: .rows; what they amount to: .metrics()"])


def _cells(row: Mapping[Hashable, Any]) -> Iterator[str]:
    """A row as it is shown."""
    yield row["kind"] + f" ({row['group']})" * bool(row["group"])
    if row["kind"] == "failed":
        yield from ("", "", row["failure"], "", "", "", "")
        return
    sentence = row["kind"] == "sentence"
    yield "" if sentence else Query(row["prefix"], row["suffix"]).text
    if row["kind"] == "continuation":
        yield from (row["pre_generated"], row["post_generated"], "", "", "", "")
        return
    yield from (row["pre_answer"], row["post_answer"])
    for which in ("old", "new"):
        before, after = (math.exp(row[f"{when}_log_prob_{which}"]) for when in ("pre", "post"))
        yield row[which]
        yield f"{probability(before)} -> {probability(after)}"


def evaluate(
    lm: LanguageModel,
    cases: Case | Iterable[Case],
    edit: Plan | Edit,
    *,
    intent: Intent | None = None,
    max_answer_tokens: int | None = None,
) -> Evaluation:
    """Ask every probe of some cases before and after an edit, as a run does.

    A plan's edits are in effect one by one, each for its own cases; for all of them at once give
    `plan.joint()`. Rows have the values that a run's have, bit for bit.

    Args:
        lm: The model, unchanged; it is unchanged again on return.
        cases: What to ask.
        edit: What a method's `plan` gave for these cases, or a single edit for all.
        intent: What a single edit is for, `replace` (old by new) or `erase` (old); a plan says.
        max_answer_tokens: How far a causal LM answers in its own words; None not to ask for it.

    Raises:
        ValueError: If a case cannot be asked of this model, or has no edit in the plan.
    """
    some = listed(cases)
    plan = _plan_of(some, edit, intent)
    _, unscorable = scorable(lm, some)
    for reason, messages in unscorable.items():
        raise ValueError(f"{reason.split(':')[0]}: {messages[0]}")
    # In the steps of a run: which rows share a batch decides their last digits.
    steps = Steps(lambda case: plan.edit_of.get(case.id, case.id), some, "single", None)
    rows: list[Row] = []
    number = 0
    while steps:
        step = steps.take(steps.size(number, None, None))
        rows += rows_of(lm, step, plan, plan.intent, freely=Freely(max_answer_tokens))
        number += 1
    located = [asdict(one) for one in plan.located]
    scores = {source: found.numpy() for source, found in plan.attributions.items()}
    return Evaluation(rows_frame(rows), located, scores)


def _plan_of(cases: list[Case], edit: Plan | Edit, intent: Intent | None) -> Plan:
    if not isinstance(edit, Plan):
        if not isinstance(edit, Edit):
            raise ValueError(f"expected an edit, or the plan of a method; got {edit!r}")
        name = "edit"
        return Plan({name: edit}, {case.id: name for case in cases}, intent=intent or "replace")
    if intent not in (None, edit.intent):
        raise ValueError(f"intent={intent}: this plan's edits are to {edit.intent}; leave it out")
    for case in cases:
        if case.id not in edit.edit_of and case.id not in edit.failed:
            raise ValueError(
                f"the plan has no edit for case {case.id!r}; it was made for "
                f"{', '.join(map(repr, [*edit.edit_of, *edit.failed]))}. Plan for this case too, "
                "or give plan.joint(), which is in effect for every case"
            )
    return edit
