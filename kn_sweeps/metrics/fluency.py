"""Fluency: whether an edited model still writes, and writes of what the edit says.

Source: Meng et al. 2022, section 3.4 and appendix: generation entropy (Zhang et al. 2018) and
reference score.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from kn_sweeps.metrics.base import Metric, Results, clusters
from kn_sweeps.metrics.bootstrap import Estimate
from kn_sweeps.metrics.quantities import Quantity

_WORD = re.compile(r"\w+|[^\w\s]")
_WEIGHTS = {2: 1 / 3, 3: 2 / 3}
"""Of bigrams and trigrams."""

_FLUENCY = Quantity(
    name="fluency",
    meaning="weighted entropy of the bigrams and trigrams of what the edited model writes; "
    "repetition lowers it",
    unit="bits",
    counts="cases",
    better="higher",
)
_CONSISTENCY = Quantity(
    name="consistency",
    meaning="tf-idf similarity of what the edited model writes and texts about its new answer",
    unit="cosine",
    counts="cases with texts",
    better="higher",
)


def entropy(text: str) -> float:
    """H_2 / 3 + 2 H_3 / 3, with H_n the entropy of the text's n-grams of words, in bits.

    Words are runs of letters and digits, and single other signs; a text without n-grams has 0.
    """
    words = _WORD.findall(text)
    return sum(
        weight * _entropy(Counter(zip(*(words[k:] for k in range(n)), strict=False)))
        for n, weight in _WEIGHTS.items()
    )


def _entropy(counts: Counter[Any]) -> float:
    total = counts.total()
    return -sum(n / total * math.log2(n / total) for n in counts.values())


def read_references(path: Path) -> pd.DataFrame:
    """Texts about answers: JSON lines with `new`, `text` and, where it matters, `source`.

    Returns:
        Columns `new`, `source` (empty for all) and `text`.

    Raises:
        ValueError: If the file cannot be read, with the line.
    """
    found = []
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    found.append(_reference(json.loads(line), f"{path}, line {number}"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {number}: expected a JSON object a line: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the reference texts: {error}") from error
    if not found:
        raise ValueError(f"{path} has no reference texts")
    return pd.DataFrame(found)


def _reference(line: Any, at: str) -> dict[str, str]:
    fields = {"source": "", **(line if isinstance(line, dict) else {})}
    wanted = ("new", "source", "text")
    if wrong := [name for name in wanted if not isinstance(fields.get(name), str)]:
        raise ValueError(
            f'{at}: expected {{"new": ..., "text": ...}}, and "source" where an answer has texts '
            f"of several relations; no text is {' and '.join(wrong)}"
        )
    return {name: fields[name].strip() for name in wanted}


def similarity(corpus: Iterable[str]) -> Callable[[str, str], float]:
    """The cosine of two texts' tf-idf vectors, whose idf is that of a corpus."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # slow, and asked for seldom

    vectors = TfidfVectorizer().fit(corpus)

    def of(one: str, other: str) -> float:
        # Rows are of length 1, or 0 where no word is in the corpus.
        first, second = vectors.transform([one, other])
        return float((first @ second.T).toarray()[0, 0])

    return of


@dataclass(frozen=True, kw_only=True)
class Fluency(Metric):
    """`fluency` and, given reference texts, `consistency`; of the unedited model, `_before`.

    A case's `fluency` is the mean `entropy` of its prompts with what the model writes behind them;
    its `consistency` is the `similarity` of all of that, and all texts about its new answer.

    Attributes:
        references: A file of reference texts, see `read_references`; null for none.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = (
        _FLUENCY,
        _FLUENCY.under("before", "of the unedited model"),
        _CONSISTENCY,
        _CONSISTENCY.under("before", "of the unedited model"),
    )

    references: str | None = None

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Score what a run's models wrote."""
        rows = results.of("continuation")
        rows = rows[rows["post_generated"].notna()]
        if rows.empty:
            return {}
        cases = (
            rows.assign(cluster=clusters(rows)).groupby("case").agg(cluster=("cluster", "first"))
        )
        written = {
            ending: (rows["prefix"] + rows[f"{when}_generated"]).groupby(rows["case"]).agg(list)
            for ending, when in (("", "post"), ("_before", "pre"))
        }
        numbers = {
            f"fluency{ending}": texts.map(lambda some: np.mean([*map(entropy, some)]))
            for ending, texts in written.items()
        }
        if self.references is not None:
            about, like = self._references(results)
            numbers |= {
                f"consistency{ending}": pd.Series(
                    {
                        case: like(" ".join(some), about[case])
                        for case, some in texts.items()
                        if case in about
                    },
                    dtype=np.float64,
                )
                for ending, texts in written.items()
            }
        return {
            name: self._mean(values, cases["cluster"].loc[values.index])
            for name, values in numbers.items()
        }

    def _references(self, results: Results) -> tuple[dict[str, str], Callable[[str, str], float]]:
        """By case, all texts about its new answer; and how alike two texts are."""
        assert self.references is not None
        known = read_references(Path(self.references))
        about: dict[str, str] = {}
        for edit in results.of("edit").itertuples():
            chosen = (known["new"] == edit.new) & known["source"].isin(["", edit.source])
            if chosen.any():
                about[str(edit.case)] = " ".join(known["text"][chosen])
        return about, similarity(known["text"])
