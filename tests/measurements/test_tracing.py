"""Tracing of cases: tokens have roles, records are means over them, the unknown is skipped."""

from __future__ import annotations

import math
from typing import Any

import pytest

from kn_sweeps.attribution.causal_tracing import subject_spread, trace
from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.measurements.base import known
from kn_sweeps.measurements.tracing import (
    AFTER,
    BEFORE,
    FIRST,
    LAST,
    LAST_READ,
    MIDDLE,
    READ,
    Tracing,
    roles,
)
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.plans import NOTHING


def _case(text: str, subject: str, old: str, name: str = "c0") -> Case:
    prefix, _, suffix = text.partition("_")
    start = (prefix + suffix).index(subject)
    query = Query(prefix, suffix, (start, start + len(subject)))
    return Case(name, "P36", "fact", Probe(query, old, "Rome", "edit"))


CASE = _case("The capital of New Delhi France is _.", "New Delhi France", "Paris")


def _row(case: str, **given: Any) -> dict[str, Any]:
    row = {"case": case, "kind": "edit", "after": "edit", "task": "fact", "pre_exact_old": True}
    return row | {"pre_margin": 1.0} | given


def test_every_token_has_its_role(some_lm: LanguageModel) -> None:
    assert CASE.edit is not None
    prompt = some_lm.encode(CASE.edit.query, "Paris")
    found = roles(prompt, some_lm.kind)
    head = [BEFORE] * 4 + [FIRST, MIDDLE, LAST]
    causal = [*head, READ]
    assert found == (causal if some_lm.kind == "causal" else [*head, AFTER, READ, AFTER, AFTER])


def test_a_subject_that_ends_the_prompt_has_a_role_of_its_own(
    causal_lm: LanguageModel,
) -> None:
    case = _case("The capital of France _", "France", "Paris")
    assert case.edit is not None
    assert roles(causal_lm.encode(case.edit.query, "Paris"), "causal") == [BEFORE] * 4 + [LAST_READ]


def test_records_are_the_traces_means_over_a_roles_tokens(some_lm: LanguageModel) -> None:
    settings = Tracing(samples=2, window=2, known=False)
    assert CASE.edit is not None
    prompt = some_lm.encode(CASE.edit.query, "Paris")
    records = settings.begin(some_lm, [CASE], 0)([CASE], NOTHING, [])
    noise = 3 * subject_spread(some_lm, [prompt])
    expected = trace(some_lm, prompt, noise=noise, seed=0, samples=2, window=2)
    places = roles(prompt, some_lm.kind)
    assert {record["role"] for record in records} >= {FIRST, MIDDLE, LAST, READ}
    for record in records:
        at = [n for n, role in enumerate(places) if role == record["role"]]
        effect = expected.effects[record["component"]][at, record["layer"]].mean()
        assert record["effect"] == pytest.approx(float(effect), abs=1e-12)
        assert (record["clean"], record["tokens"]) == (expected.clean, len(at))


def test_the_noise_is_that_of_all_cases_whichever_are_traced(some_lm: LanguageModel) -> None:
    other = _case("The capital of Peru is _.", "Peru", "Lima", "c1")
    settings = Tracing(samples=1, known=False, components=("state",))
    together = settings.begin(some_lm, [CASE, other], 0)([CASE, other], NOTHING, [])
    alone = settings.begin(some_lm, [CASE, other], 0)([other], NOTHING, [])
    assert [r for r in together if r["case"] == "c1"] == alone


def test_only_what_the_model_knows_is_traced(some_lm: LanguageModel) -> None:
    measure = Tracing(samples=1, components=("state",)).begin(some_lm, [CASE], 0)
    assert measure([CASE], NOTHING, [_row("c0", pre_exact_old=False)]) == []
    assert measure([CASE], NOTHING, [_row("c0")])


def test_knowing_is_answering_a_fact_and_preferring_a_form() -> None:
    rows = [
        _row("fact"),
        _row("not", pre_exact_old=False),
        _row("form", task="syntax", pre_margin=-1.0, pre_exact_old=False),
        _row("other", task="syntax", pre_margin=1.0),
        _row("elsewhere", kind="neighbour"),
        _row("nan", task="syntax", pre_margin=math.nan),
    ]
    assert known(rows) == {"fact", "form"}


def test_where_no_case_has_a_subject_it_says_so(causal_lm: LanguageModel) -> None:
    bare = Case("c", "P36", "fact", Probe(Query("The city of "), "Paris", "Rome", "edit"))
    with pytest.raises(ValueError, match="no case has one"):
        Tracing().begin(causal_lm, [bare], 0)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        Tracing(samples=0)
