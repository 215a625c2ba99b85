"""Tables of what can be chosen, made from the configs and the classes that they name.

A table has a row for each YAML of a group of `conf/`: its name and what its first comment says.
Below it every YAML has a table of its keys with the comments behind them; what a class does is its
docstring. All of that is read as text; only metrics are imported, for what their numbers are.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from kn_sweeps.metrics.base import Metric

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"


@dataclass(frozen=True)
class Group:
    """A group of `conf/` that a table is made of.

    Attributes:
        name: Its folder.
        title: Of the page.
        how: How one is chosen.
    """

    name: str
    title: str
    how: str

    @property
    def page(self) -> str:
        """Where its page is on the site."""
        return f"choices/{self.name}.md"


GROUPS = (
    Group("model", "Models", "By `model=NAME`; `-m model=A,B` runs several"),
    Group("method", "Methods", "By `method=NAME`; `-m method=A,B` compares them"),
    Group("dataset", "Datasets", "By `dataset=NAME`; `-m dataset=A,B` runs several"),
    Group("metric", "Metrics", "All of them unless some are named: `'metric=[A,B]'`"),
    Group("measurement", "Measurements", "None unless some are named: `'measurement=[A,B]'`"),
    Group("compat", "Compatibility presets", "By `compat=NAME`"),
    Group("experiment", "Experiments", "By `experiment=NAME`"),
)


@dataclass(frozen=True)
class Setting:
    """A key of a YAML, its value there, and the comment behind it."""

    key: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Preset:
    """A YAML of a group.

    Attributes:
        name: By which it is chosen.
        about: What its first comment says.
        target: The class it describes, as `module.Class`; empty where it is none.
        settings: Its keys, with those it takes from another one of its group.
        sweep: What a sweep of it runs through.
    """

    name: str
    about: str
    target: str
    settings: tuple[Setting, ...]
    sweep: Mapping[str, Any]


def presets(group: str) -> list[Preset]:
    """All of a group, by name."""
    return [_preset(path) for path in sorted((CONF / group).glob("*.yaml"))]


@cache
def _preset(path: Path) -> Preset:
    text = path.read_text(encoding="utf-8")
    node = yaml.safe_load(text) or {}
    found = {setting.key: setting for setting in _settings(text)}
    target = node.get("_target_", "")
    for parent in node.get("defaults", []):
        if isinstance(parent, str) and (other := path.with_name(f"{parent}.yaml")).is_file():
            inherited = _preset(other)
            found = {setting.key: setting for setting in inherited.settings} | found
            target = target or inherited.target
    sweep = node.get("hydra", {}).get("sweeper", {}).get("params", {})
    return Preset(path.stem, _about(text), target, tuple(found.values()), sweep)


def _about(text: str) -> str:
    """The comment a YAML begins with, in one line."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def _settings(text: str) -> Iterator[Setting]:
    """Every key with a value, under its whole name; those that say how Hydra composes are not."""
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        found = re.match(
            r"( *)(\w+):(?: +(\"[^\"]*\"|\[.*?\]|\{.*?\}|[^#]*?))?(?: +# *(.*))?$", line
        )
        if found is None:
            continue
        depth, key = len(found[1]), found[2]
        parents = [one for one in parents if one[0] < depth]
        name = ".".join([*(parent for _, parent in parents), key])
        if not found[3]:
            parents.append((depth, key))
        if name.split(".")[0] in ("defaults", "hydra", "_target_"):
            continue
        if found[3] or found[4]:
            yield Setting(name, found[3] or "", found[4] or "")


def docstring(target: str) -> str:
    """The first paragraph of the docstring of `module.Class`; empty where there is none."""
    module, _, name = target.rpartition(".")
    path = ROOT / f"{module.replace('.', '/')}.py"
    if not path.is_file():
        return ""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    return ""


def choices_page(group: Group) -> str:
    """The page of a group: a table of all, then every one with its settings."""
    every = presets(group.name)
    swept = any(preset.sweep for preset in every)
    head = ["choice", "is", *(["runs through"] if swept else [])]
    rows = [[f"[`{p.name}`](#{p.name})", p.about, *([_swept(p)] if swept else [])] for p in every]
    parts = [
        f"# {group.title}",
        f"{group.how}. This page is made from `conf/{group.name}/`.",
        table(head, rows),
    ]
    return "\n\n".join([*parts, *(part for preset in every for part in _section(group, preset))])


def _section(group: Group, preset: Preset) -> Iterator[str]:
    yield f"## {preset.name}"
    yield _linked(preset.about)
    if preset.target:
        said = docstring(preset.target)
        yield f"[`{preset.target}`][{preset.target}]" + (f": {said}" if said else "")
    if preset.settings:
        at = {"metric": f"metric.{preset.name}.", "measurement": f"measurement.{preset.name}."}
        before = at.get(group.name, f"{group.name}.")
        before = "" if group.name in ("experiment", "compat") else before
        rows = [
            [f"`{before}{one.key}`", f"`{one.value}`" if one.value else "", one.meaning]
            for one in preset.settings
        ]
        yield table(["key", "value", "meaning"], rows)
    if group.name == "metric":
        yield _quantities(preset.target)
    if group.name == "method":
        yield from _tuned(preset.name)


def _quantities(target: str) -> str:
    """What the numbers of a metric are, as its class says it."""
    module, _, name = target.rpartition(".")
    metric: type[Metric] = getattr(importlib.import_module(module), name)
    rows = [
        [f"`{one.name}`", one.meaning, one.unit, one.counts, one.better or ""]
        for one in metric.quantities
    ]
    return table(["number", "meaning", "unit", "`n` counts", "better"], rows)


def _tuned(method: str) -> Iterator[str]:
    """The values of a method that depend on the model, a row for each model."""
    models = [_preset(path) for path in sorted((CONF / "tuned" / method).glob("*.yaml"))]
    keys = list(dict.fromkeys(one.key for model in models for one in model.settings))
    if keys:
        yield f"Tuned for models (`conf/tuned/{method}/`):"
        rows = []
        for model in models:
            values = {one.key: f"`{one.value}`" for one in model.settings}
            rows.append([f"`{model.name}`", *(values.get(key, "") for key in keys), model.about])
        yield table(["model", *(f"`{key}`" for key in keys), "from"], rows)


def _swept(preset: Preset) -> str:
    return ", ".join(f"`{key}={value}`" for key, value in preset.sweep.items()) or "one run"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(_linked(cell).replace("|", "\\|") for cell in line) + " |"
        for line in lines
    )


def _linked(text: str) -> str:
    """A text as Markdown for a page of `choices/`: pages that it names by their path are links."""
    shown = re.sub(r"(`[^`]*`)|<", lambda found: found[1] or "&lt;", text)
    return re.sub(r"docs/([\w/-]+\.md)", r"[\1](../\1)", shown)
