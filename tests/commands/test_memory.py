"""`kn-sweeps memory` counts from configs alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kn_sweeps.commands.memory import main
from kn_sweeps.models.sizes import SIZES

CONF = Path(__file__).resolve().parents[2] / "conf"


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()[2:]]


def test_a_model_that_is_not_here_is_counted_by_its_sizes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = ["model=llama_2_7b", "dtype=bfloat16"]
    assert main([*common, "method=rome,none"]) == 0
    rome, none = rows(capsys.readouterr().out)
    assert rome[:4] == ["llama_2_7b*", "rome", "bfloat16", "12.6"]
    assert none[3] == "12.6"
    assert float(rome[-1]) > float(none[-1]) > 12.6
    assert main([*common, "method=rome", "method.max_rows=32"]) == 0
    (fewer,) = rows(capsys.readouterr().out)
    assert float(fewer[4]) < float(rome[4])


def test_a_model_that_is_here_is_counted_by_its_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=tiny_gpt2,tiny_bert", "method=kn,memit,ft"]) == 0
    found = rows(capsys.readouterr().out)
    assert len(found) == 6
    assert not any("*" in row[0] for row in found)
    assert all(float(row[-1]) > float(row[3]) for row in found)


def test_every_method_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=llama_2_7b"]) == 0
    out, errors = capsys.readouterr()
    assert "left out" not in errors
    methods = {path.stem for path in (CONF / "method").glob("*.yaml")}
    assert {row[1] for row in rows(out)} == methods


def test_a_table_for_docs_has_a_line_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--markdown", "model=tiny_gpt2", "method=none,memit"]) == 0
    head, _, line = capsys.readouterr().out.splitlines()
    assert head == "| model | weights | none | memit |"
    assert line.startswith("| tiny_gpt2 | 0.0 | 0.0 + 0.0 |")


def test_what_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=llama_2_7", "method=rome"]) == 1
    assert "did you mean llama_2_7b?" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["model=tiny_gpt2", "--tokens", "0"])


def test_every_preset_of_a_hub_or_of_pypi_has_its_sizes() -> None:
    for path in sorted((CONF / "model").glob("*.yaml")):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.stem == "checkpoint" or config["_target_"].endswith(".Bundled"):
            continue
        sizes = SIZES[config.get("name", config["label"])]
        told = sizes.get("num_hidden_layers", sizes.get("n_layer"))
        assert told is None or told == config["layers"]
