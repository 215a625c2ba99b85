"""What methods carry along a sequence of edits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.editing.second_moment import TextSource, second_moments
from kn_sweeps.editing.values import optimised
from kn_sweeps.edits import Edit, LowRank, RankOne, State, joined, parts
from kn_sweeps.evaluation.regimes import merged
from kn_sweeps.interventions import applied, recorded
from kn_sweeps.methods.alphaedit import AlphaEdit
from kn_sweeps.methods.base import Method
from kn_sweeps.methods.memit import Memit
from kn_sweeps.methods.random import RandomControl
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.plans import Located, Plan
from kn_sweeps.records.chunks import Chunks
from kn_sweeps.run import run
from tests.conftest import WORDS
from tests.reference import alphaedit as reference
from tests.test_config import composed

ALONE: dict[str, Any] = {"contexts": 0, "steps": 6, "kl_factor": 0.0}


def _case(name: str, subject: str, before: str, new: str) -> Case:
    at = len(before)
    query = Query(f"{before}{subject} is ", ".", (at, at + len(subject)))
    return Case(name, "P36", "fact", Probe(query, "a", new, "edit"), (query,))


CASES = [
    _case("c0", "France", "The capital of ", "Rome"),
    _case("c1", "Peru", "The city of ", "New Delhi"),
    _case("c2", "India", "this capital of ", "Paris"),
    _case("c3", "Italy", "that city in ", "Lima"),
    _case("c4", "Ann", "The cat of ", "Rome"),
    _case("c5", "Bob", "these dogs of ", "Paris"),
]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TextSource:
    """Texts of random words, enough for a positive definite moment."""
    monkeypatch.setenv("KN_SWEEPS_CACHE", str(tmp_path / "cache"))
    draw = torch.Generator().manual_seed(0)
    words = torch.randint(len(WORDS), (80, 9), generator=draw).tolist()
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(" ".join(WORDS[i] for i in row) for row in words))
    return TextSource(str(path))


@pytest.fixture
def alphaedit(some_lm: LanguageModel, source: TextSource) -> AlphaEdit:
    """AlphaEdit whose null space is half of all directions."""
    (moment,) = second_moments(some_lm, [1], source)
    threshold = float(torch.linalg.eigvalsh(moment.matrix).median()) * (1 + 1e-6)
    return AlphaEdit((1,), 0.1, second_moment=source, null_threshold=threshold, **ALONE)


def _in_sequence(
    lm: LanguageModel, method: Method, cases: Sequence[Case], state: State | None
) -> list[Plan]:
    """Plans of some cases, each on top of those before it."""
    plans: list[Plan] = []
    for case in cases:
        with applied(lm, joined(edit for plan in plans for edit in plan.edits.values())):
            plan = method.plan(lm, [case], 0, state=state)
        for left in plan.state:
            state = method.carried(state or {}, left)
        plans.append(plan)
    return plans


def _change(lm: LanguageModel, edits: Sequence[Edit]) -> torch.Tensor:
    """What edits of layer 1 add to its projection, in float64."""
    total = torch.zeros(lm.architecture.d_ff, lm.architecture.d_model).double()
    for part in (part for edit in edits for part in parts(edit)):
        assert isinstance(part, RankOne | LowRank)
        u, v = (x.reshape(-1, x.shape[-1]).double() for x in (part.u, part.v))
        total += u.T @ v
    return total


def _keys(lm: LanguageModel, case: Case, layers: list[int]) -> dict[int, torch.Tensor]:
    """The keys at the subject, without contexts."""
    assert case.edit is not None
    prompt = lm.encode(case.edit.query, case.edit.new)
    with torch.no_grad(), recorded(lm, layers) as seen:
        lm.hidden(lm.batch([lm.rows(prompt)[0].ids]))
    return {layer: seen[layer][0][0, prompt.subject_last].double() for layer in layers}


def test_alphaedit_in_sequence_is_equation_14(some_lm: LanguageModel, alphaedit: AlphaEdit) -> None:
    plans = _in_sequence(some_lm, alphaedit, CASES[:4], {})
    (moment,) = second_moments(some_lm, [1], alphaedit.second_moment)  # type: ignore[arg-type]
    projection = reference.projection(moment.matrix, alphaedit.null_threshold)
    *before, last = (joined(plan.edits.values()) for plan in plans)
    with applied(some_lm, joined(before)):
        (value,) = optimised(some_lm, CASES[3:4], [""], alphaedit.objective())[0].values()
    # Keys of layer 1 are what enters it: edits of layer 1 itself leave them alone.
    earlier = torch.stack([_keys(some_lm, case, [1])[1] for case in CASES[:3]])
    key, residual = value.keys[:1].double(), value.delta[None].double()
    args = (projection, alphaedit.covariance_weight)
    expected = reference.update(key, residual, earlier, *args)
    torch.testing.assert_close(_change(some_lm, [last]), expected, atol=1e-6, rtol=1e-4)
    without = reference.update(key, residual, earlier[:0], *args)
    assert float((expected - without).norm()) > 0.05 * float(without.norm())
    alone = replace(alphaedit, protect_earlier=False)
    assert not any(plan.state for plan in _in_sequence(some_lm, alone, CASES[:1], {}))
    assert not alphaedit.plan(some_lm, CASES[:1], 0).state  # no sequence, nothing to leave


def test_alphaedit_holds_what_earlier_keys_give(
    some_lm: LanguageModel, alphaedit: AlphaEdit
) -> None:
    moved = {}
    for protects in (True, False):
        method = replace(alphaedit, protect_earlier=protects)
        edits = [
            plan.edits[case.id]
            for plan, case in zip(_in_sequence(some_lm, method, CASES, {}), CASES, strict=True)
        ]
        moved[protects] = [
            float((_keys(some_lm, case, [1])[1] @ _change(some_lm, edits[n + 1 :])).norm())
            for n, case in enumerate(CASES[:-1])
        ]
    assert sum(moved[True]) < 0.5 * sum(moved[False])


def test_alphaedit_leaves_keys_as_its_edits_make_them(
    some_lm: LanguageModel, alphaedit: AlphaEdit
) -> None:
    method = replace(alphaedit, layers=(0, 1), null_threshold=1e9)  # all is null space
    plan = method.plan(some_lm, CASES[:2], 0, together=True, state={})
    (left,) = plan.state
    with applied(some_lm, plan):
        wanted = [_keys(some_lm, case, [0, 1]) for case in CASES[:2]]
    for layer in (0, 1):
        keys = torch.stack([own[layer] for own in wanted])
        torch.testing.assert_close(left[f"keys of layer {layer}"], keys, atol=1e-6, rtol=1e-6)
    unedited = _keys(some_lm, CASES[0], [1])[1]
    assert float((unedited - wanted[0][1]).norm()) > 1e-3 * float(unedited.norm())
    carried = method.carried(method.carried({}, left), left)
    keys = left["keys of layer 1"]
    torch.testing.assert_close(carried["keys of layer 1"], 2 * keys.T @ keys)
    control = RandomControl(method).plan(some_lm, CASES[:1], 0, state={})
    assert len(control.state) == 1


def test_memits_statistics_are_those_of_the_unedited_model(
    some_lm: LanguageModel, source: TextSource
) -> None:
    memit = Memit((1,), 3.0, second_moment=source, **ALONE)
    memit.prepare(some_lm, 0)
    edit = RankOne(0, *(torch.ones(n) for n in (40, 24)))
    (moment,) = second_moments(some_lm, [1], source)
    with applied(some_lm, edit):
        (change,) = memit.plan(some_lm, CASES[:1], 0, state={}).edits.values()
        (value,) = optimised(some_lm, CASES[:1], [""], memit.objective())[0].values()
        key = _keys(some_lm, CASES[0], [1])[1]
    # The key is that of the model as edited so far, C is not.
    system = 3.0 * moment.matrix + torch.outer(key, key)
    expected = torch.outer(torch.linalg.solve(system, key), value.delta.double())
    torch.testing.assert_close(_change(some_lm, [change]), expected, atol=1e-6, rtol=1e-4)
    other = Memit((1,), 3.0, second_moment=replace(source, samples=70), **ALONE)
    with (
        applied(some_lm, edit),
        pytest.raises(ValueError, match="second moments are those of the unedited model"),
    ):
        other.plan(some_lm, CASES[:1], 0)


def test_plans_are_merged_with_all_that_they_say() -> None:
    ones = {"k": torch.ones(1)}
    plans = [
        Plan(
            edits={name: RankOne(0, torch.ones(1), torch.ones(1))},
            edit_of={name: name},
            located=(Located(name, "P", (name,), (), 0.7, True, ()),),
            attributions={"P": torch.ones(1, 2)},
            failed={f"{name}2": "no"},
            contexts=("", "x. "),
            intent="erase",
            effects={name: RankOne(1, torch.ones(1), torch.ones(1))},
            state=(ones,),
        )
        for name in ("a", "b")
    ]
    plan = merged(plans)
    assert all(vars(plan).values())  # no field is left out here
    for field in ("edits", "edit_of", "failed", "effects"):
        assert list(getattr(plan, field)) == [n for one in plans for n in getattr(one, field)]
    assert [found.edit for found in plan.located] == ["a", "b"]
    assert plan.attributions["P"].shape == (2, 2)
    assert (plan.contexts, plan.intent, plan.state) == (("", "x. "), "erase", (ones, ones))


def test_a_sequence_goes_on_with_what_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(name: str) -> dict[str, Any]:
        return composed(
            *("dataset=pararel", "dataset.relations=[P36]", "limit=3", "tracker=none"),
            *("method=alphaedit", "method.steps=3", "method.contexts=0", "method.kl_factor=0"),
            *("method.null_threshold=1", "regime=sequential", "metric=[reliability]"),
            *(f"results_dir={tmp_path}", f"sweep={name}"),
        )

    whole = run(config("whole")).directory / "rows.parquet"
    original = Chunks.add

    def stopping(self: Any, chunk: int, *args: Any, **about: Any) -> None:
        original(self, chunk, *args, **about)
        if chunk == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Chunks, "add", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(config("cut"))
    (first,) = tmp_path.glob("cut/*/parts/000000.state")
    assert set(load_file(first)) == {"0/keys of layer 0", "0/keys of layer 1"}
    first.write_bytes(b"x")  # what is damaged is computed again
    cut = run(config("cut")).directory / "rows.parquet"
    frames = [pd.read_parquet(path) for path in (whole, cut)]
    pd.testing.assert_frame_equal(*frames, check_exact=True)
