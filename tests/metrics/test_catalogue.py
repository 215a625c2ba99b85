"""What a metric is, is said on its class; tables and docs have it from there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import kn_sweeps.metrics
from analysis import table
from kn_sweeps.config import metric_hashes
from kn_sweeps.metrics import Estimate, Results, catalogue
from kn_sweeps.metrics.base import measured
from kn_sweeps.metrics.catalogue import described, headlines, quantity
from kn_sweeps.metrics.fluency import Fluency
from kn_sweeps.metrics.quantities import Quantity
from kn_sweeps.run import run
from tests.test_config import composed

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
MINE = '''
from dataclasses import dataclass
from typing import ClassVar

from kn_sweeps.metrics import Bootstrap, Estimate, Metric, Quantity, Results


@dataclass(frozen=True, kw_only=True)
class Longest(Metric):
    """`longest_answer`."""

    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            name="longest_answer",
            meaning="letters of the longest answer",
            unit="letters",
            counts="edit probes",
            better="lower",
            headline=True,
        ),
    )

    def __call__(self, results: Results) -> dict[str, Estimate]:
        letters = results.of("edit")["post_answer"].str.len()
        return {"longest_answer": Estimate(float(letters.max()), None, None, len(letters))}
'''
YAML = """# @package metric.longest
_target_: kn_sweeps.metrics.longest.Longest
bootstrap: ${bootstrap}
"""


def test_a_new_metric_is_one_file_and_one_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "longest.py").write_text(MINE)
    (tmp_path / "conf" / "metric").mkdir(parents=True)
    (tmp_path / "conf" / "metric" / "longest.yaml").write_text(YAML)
    monkeypatch.setattr(kn_sweeps.metrics, "__path__", [*kn_sweeps.metrics.__path__, str(tmp_path)])
    config = composed(
        *("method=none", "dataset=pararel", "dataset.relations=[P36]", "limit=1", "tracker=none"),
        *(f"results_dir={tmp_path / 'results'}", "metric=[reliability,longest]"),
        conf=tmp_path / "conf",
    )
    run(config)
    assert table.main([str(tmp_path / "results" / "default")]) == 0
    assert capsys.readouterr().out.split("\n")[0].split()[6:] == ["reliability", "longest_answer"]
    assert (
        "- `longest_answer`: letters of the longest answer (letters; lower is better)"
        in (tmp_path / "results" / "default" / "table.md").read_text()
    )
    sys.modules.pop("kn_sweeps.metrics.longest")


def test_every_number_is_described_once_and_fully() -> None:
    every = described()
    assert len({one.name for one in every}) == len(every)
    for one in every:
        assert all((one.meaning, one.unit, one.counts)), one
        assert not one.meaning.endswith(".")


def test_a_pattern_names_its_part_and_a_whole_name_comes_first() -> None:
    assert quantity("locality_same_pond").meaning == "locality on the neighbours same_pond"
    assert "KL" in quantity("locality_kl").meaning
    assert "all edits" in quantity("locality_after_all").meaning
    assert "restoring mlp at" in quantity("indirect_effect_mlp_subject").meaning


def test_what_no_metric_describes_has_no_meaning_and_is_no_headline() -> None:
    assert quantity("wingspan") == Quantity(name="wingspan", meaning="", unit="", counts="")
    assert headlines(["wingspan", "locality", "reliability"]) == ["locality", "reliability"]


def test_a_metric_with_another_interval_is_another_metric() -> None:
    one, other = (
        metric_hashes(composed("metric=[locality,tracing]", f"bootstrap.confidence={confidence}"))
        for confidence in (0.95, 0.9)
    )
    assert one["locality"] != other["locality"]
    alone = metric_hashes(
        composed("metric=[locality,tracing]", "metric.tracing.bootstrap={resamples: 10}")
    )
    assert (alone["locality"] == one["locality"], alone["tracing"] == one["tracing"]) == (
        True,
        False,
    )


def _escaped(text: str) -> str:
    """As Markdown shows it in a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


def test_the_page_has_every_number_as_its_class_describes_it() -> None:
    rows = "".join(
        f"| `{one.name}` | {_escaped(one.meaning)} "
        f"| {one.unit} | {one.better or ''} | {one.counts} |\n"
        for one in described()
        if one.name != "longest_answer"
    )
    head = "| name | meaning | unit | better | n counts |\n| --- | --- | --- | --- | --- |\n"
    assert f"{head}{rows}\n" in PAGE.read_text(encoding="utf-8"), f"docs/metrics.md lacks:\n{rows}"


def test_every_config_has_the_shared_interval() -> None:
    for path in (PAGE.parents[1] / "conf" / "metric").glob("*.yaml"):
        assert OmegaConf.to_container(OmegaConf.load(path))["bootstrap"] == "${bootstrap}"


def test_what_ends_with_a_scorer_is_by_it_and_what_does_not_is_a_set() -> None:
    assert "scorer=token" in quantity("portability_token").meaning
    assert "consequences 4_hops" in quantity("portability_4_hops").meaning
    assert "scorer=" not in quantity("portability_4_hops").meaning
    assert "scorer=token" in quantity("portability_4_hops_token").meaning


class _Texts:
    """No subclass of `Metric`, which the catalogue would find: calls its number as another does."""

    quantities = (Quantity(name="fluency", meaning="how many texts", unit="texts", counts="texts"),)

    def __call__(self, _results: Results) -> dict[str, Estimate]:
        return {"fluency": Estimate(1.0, None, None, 1)}


def test_two_metrics_that_call_their_numbers_alike_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="_Texts gives 'fluency', as another metric does"):
        measured([_Texts(), _Texts()], Results())  # type: ignore[list-item]
    monkeypatch.setattr(catalogue, "_subclasses", lambda _: iter([Fluency, _Texts]))
    with pytest.raises(ValueError, match="calls a number 'fluency', as another does"):
        described()
