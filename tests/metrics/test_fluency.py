"""What a model writes: entropy and similarity by their formulas, and refused reference files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import pytest

from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.fluency import Fluency, entropy, read_references, similarity
from tests.reference import writing

Make = Callable[..., dict[str, Any]]
TEXTS = [
    "Rome is the capital of Italy and its largest city",
    "the Tiber runs through Rome , and Rome has seven hills",
    "Oslo lies at the end of a fjord",
]


@pytest.mark.parametrize("text", [*TEXTS, "a a a a a", "a b a b a b c"])
def test_entropy_is_that_of_the_formula(text: str) -> None:
    assert entropy(text) == pytest.approx(writing.entropy(text.split()))


def test_repetition_and_silence_have_no_entropy_and_signs_are_words() -> None:
    assert entropy("Rome Rome Rome Rome") == entropy("Rome") == entropy("") == 0
    assert entropy("It's here, now.") == entropy("It ' s here , now .") > 0


@pytest.mark.parametrize("text", ["Rome has hills", "Italy and Oslo", "Lima", ""])
def test_similarity_is_that_of_the_formula(text: str) -> None:
    like = similarity(TEXTS)
    for other in TEXTS:
        assert like(text, other) == pytest.approx(writing.similarity(TEXTS, text, other))


def _written(row: Make, case: str, *texts: str, new: str = "Rome") -> list[dict[str, Any]]:
    pre = {"pre_generated": "Paris. Paris. Paris."}
    return [
        row(case, new=new),
        *(
            row(case, kind="continuation", prefix="France: ", post_generated=text, old="", new="")
            | pre
            for text in texts
        ),
    ]


def test_a_case_is_the_mean_of_its_texts_and_is_compared_with_all_about_its_answer(
    row: Make, tmp_path: Path
) -> None:
    path = tmp_path / "references.jsonl"
    lines = [{"new": "Rome", "text": TEXTS[0]}, {"new": "Rome", "text": TEXTS[1], "source": "P36"}]
    lines += [{"new": "Rome", "text": "of another relation", "source": "P19"}]
    lines += [{"new": "Oslo", "text": TEXTS[2]}]
    path.write_text("\ufeff" + "".join(json.dumps(line) + "\n\n" for line in lines))
    rows = [*_written(row, "a", "Rome has hills", "the capital of Italy is Rome")]
    rows += _written(row, "b", "a fjord , a fjord", new="Oslo")
    rows += _written(row, "c", "nobody wrote of Lima", new="Lima")
    found = Fluency(references=str(path))(Results(pd.DataFrame(rows)))

    def fluent(*texts: str) -> float:
        return fmean(writing.entropy(f"France : {text}".split()) for text in texts)

    of_cases = [
        fluent("Rome has hills", "the capital of Italy is Rome"),
        fluent("a fjord , a fjord"),
        fluent("nobody wrote of Lima"),
    ]
    corpus = [line["text"] for line in lines]
    written = "France: Rome has hills France: the capital of Italy is Rome"
    like = [
        writing.similarity(corpus, written, f"{TEXTS[0]} {TEXTS[1]}"),
        writing.similarity(corpus, "France: a fjord , a fjord", TEXTS[2]),
    ]
    assert found["fluency"].value == pytest.approx(fmean(of_cases))
    assert found["consistency"].value == pytest.approx(fmean(like))
    assert (found["fluency"].n, found["consistency"].n) == (3, 2)
    assert found["fluency_before"].value == pytest.approx(fluent("Paris . Paris . Paris ."))
    assert found["consistency_before"].value == pytest.approx(0)


def test_without_texts_there_is_no_number_and_without_references_no_consistency(row: Make) -> None:
    assert Fluency()(Results(pd.DataFrame([row()]))) == {}
    found = Fluency()(Results(pd.DataFrame(_written(row, "a", "Rome"))))
    assert set(found) == {"fluency", "fluency_before"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "references.jsonl, line 1: expected a JSON object a line"),
        ('{"new": "Rome", "text": "x"}\n[1]', "line 2: expected .* no text is new and text"),
        ('{"new": "Rome"}', "line 1: expected .*; no text is text"),
        ("\n", "has no reference texts"),
        (None, "cannot read the reference texts: .*No such file"),
    ],
)
def test_a_bad_file_of_references_is_refused_by_line(
    tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "references.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_references(path)
