"""Imports point down: the code is held to the table of docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = re.findall(
    r"^\| (\d+) \| (.*?) \|", (ROOT / "docs/architecture.md").read_text(encoding="utf-8"), re.M
)
LAYER = {name: int(number) for number, names in TABLE for name in re.findall(r"`([\w.]+)`", names)}
UPWARD = {("kn_sweeps.methods.base", "kn_sweeps.notebook.presets.method_for")}
"""The one arrow that docs/architecture.md gives a reason for."""
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for folder in ("kn_sweeps", "analysis", "hydra_plugins")
    for path in (ROOT / folder).rglob("*.py")
}


def room(module: str) -> str | None:
    """The longest name of the table that a module belongs to; None of what is not the project's."""
    parts = module.removeprefix("kn_sweeps.").split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((name for name in names if name in LAYER), None)


def imported(module: str, path: Path) -> Iterator[str]:
    """What a module imports, wherever in it, but not for type checkers only."""
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            near = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*near, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
        else:
            todo += ast.iter_child_nodes(node)


def test_every_module_has_a_room() -> None:
    assert [name for name in MODULES if room(name) is None] == ["kn_sweeps.__init__"]


def test_imports_point_down() -> None:
    wrong = {
        f"{module} ({LAYER[here]}) imports {other} ({LAYER[there]})"
        for module, path in MODULES.items()
        if (here := room(module)) is not None
        for other in imported(module, path)
        if other.split(".")[0] in ("kn_sweeps", "analysis", "hydra_plugins")
        and (there := room(other)) is not None
        and there.split(".")[0] != here.split(".")[0]
        and LAYER[there] >= LAYER[here]
        and (module, other) not in UPWARD
    }
    assert not wrong, "\n".join(sorted(wrong))
    for module, other in UPWARD:
        assert other in imported(module, MODULES[module]), "it is not needed any more"


def test_modules_of_analysis_name_each_other_relatively_for_a_wheel_has_them_elsewhere() -> None:
    for module, path in MODULES.items():
        found = [name for name in imported(module, path) if name.split(".")[0] == "analysis"]
        text = path.read_text(encoding="utf-8")
        absolute = re.findall(r"^\s*(?:from|import) analysis\b.*", text, re.M)
        assert not absolute, f"{module}: {absolute}"
        assert not found or module.split(".")[0] == "analysis"
