"""What of the site is made from the repository: mkdocs calls this as its hook.

The start page is the README, the choices are made from the configs (`choices`), the API has a page
for each module, which mkdocstrings fills, notebooks are shown as they were saved, and links work
here as they do in the repository.
"""

from __future__ import annotations

import ast
import html
import json
import logging
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from choices import GROUPS, choices_page, table
from markdown_it import MarkdownIt
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PACKAGES = ("kn_sweeps", "analysis")
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
_CODE = re.compile(r"^(?: {4}|\t).*$|^```[\s\S]*?^```$|`[^`\n]+`", re.MULTILINE)

_TAGS = ("li", "pre", "tr", "h1", "h2", "h3", "blockquote", "em", "strong", "img")

# mkdocs counts the warnings of loggers below its own, and --strict refuses them.
log = logging.getLogger("mkdocs.hooks.generate")


def modules() -> dict[str, str]:
    """Every public module by its dotted name, with the first line of its docstring."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[-1] == "__main__" or any(p.startswith("_") for p in parts[:-1]):
                continue
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[name] = said.split("\n")[0]
    return {name: found[name] for name in sorted(found, key=_order)}


def _order(name: str) -> tuple[int, str]:
    """The package first, then what reads its results."""
    return PACKAGES.index(name.split(".")[0]), name


def api_index(names: Mapping[str, str]) -> str:
    """The list of all modules."""
    rows = [[f"[`{name}`]({name}.md)", said] for name, said in names.items()]
    return "\n\n".join(
        [
            "# API",
            "Every module and what it is for; made from the docstrings. `kn_sweeps.run` is the "
            "page to read first, `kn_sweeps.cases` has the vocabulary.",
            table(["module", "is"], rows),
        ]
    )


def decisions() -> dict[str, str]:
    """Title by file of every decision, the newest first."""
    paths = sorted((DOCS / "decisions").glob("20*.md"), reverse=True)
    return {path.name: _title(path) for path in paths}


def _title(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()


def decisions_index() -> str:
    """The list of all decisions."""
    rows = [[name[:10], f"[{title}]({name})"] for name, title in decisions().items()]
    return "\n\n".join(
        [
            "# Decisions",
            "Why something is as it is: what was chosen, what else there was, and where a paper "
            "or its code does otherwise.",
            table(["date", "decision"], rows),
        ]
    )


def _notebooks() -> list[Path]:
    return sorted(DOCS.glob("notebooks/*.ipynb"))


def notebook_page(path: Path) -> str:
    """A notebook as it was saved: texts, code, and what the code put out."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(for_site(text, f"docs/notebooks/{path.name}"))
        elif cell["cell_type"] == "code":
            parts.append(f"````python\n{text}\n````")
            parts += map(_output, cell["outputs"])
    return "\n\n".join(parts)


def _output(output: Mapping[str, Any]) -> str:
    """The richest form of an output that a page can show."""
    data = {"text/plain": output.get("text", ""), **output.get("data", {})}
    shown = {kind: "".join(lines) for kind, lines in data.items() if isinstance(lines, list | str)}
    for kind in ("text/html", "image/svg+xml"):
        if kind in shown:
            return f'<div class="output">\n{shown[kind]}\n</div>'
    if "image/png" in shown:
        return f'<img alt="Output" src="data:image/png;base64,{shown["image/png"].strip()}">'
    return f'<pre class="output">{html.escape(shown["text/plain"].rstrip())}</pre>'


def for_site(markdown: str, at: str) -> str:
    """A page of the repository with its links as the site needs them.

    Links to files of the repository that are no pages lead to the API where they are modules, and
    are plain text otherwise.

    Args:
        markdown: The page.
        at: Its path in the repository.
    """
    here = posixpath.dirname(at)
    own = "" if at == "README.md" else posixpath.dirname(posixpath.relpath(at, "docs"))

    def moved(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(here, found[1]))
        return posixpath.relpath(_place(path), own or ".") + (found[2] or "")

    code = [(part.start(), part.end()) for part in _CODE.finditer(markdown)]
    parts, last = [], 0
    for start, end in [*code, (len(markdown), len(markdown))]:
        parts += [_LINK.sub(moved, markdown[last:start]), markdown[start:end]]
        last = end
    return "".join(parts)


def _place(path: str) -> str:
    """Where a file or folder of the repository is on the site."""
    if path == "README.md":
        return "index.md"
    if path.endswith(".py"):
        return f"api/{path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}.md"
    if (ROOT / path).is_dir():
        path += "/index.md"
    return path.removeprefix("docs/")


def generated() -> Iterator[tuple[str, str]]:
    """Path on the site and text of every page that is made here."""
    yield "index.md", for_site((ROOT / "README.md").read_text(encoding="utf-8"), "README.md")
    for group in GROUPS:
        yield group.page, choices_page(group)
    names = modules()
    yield "api/index.md", api_index(names)
    for name in names:
        yield f"api/{name}.md", f"---\ntitle: {name}\n---\n\n::: {name}\n"
    yield "decisions/index.md", decisions_index()
    for path in _notebooks():
        yield f"notebooks/{path.stem}.md", notebook_page(path)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the parts of the navigation that are made here."""
    assert config.nav is not None
    filled: dict[str, list[Any]] = {
        "API": ["api/index.md", *_by_room()],
        "Decisions": [
            "decisions/index.md",
            *({title: f"decisions/{name}"} for name, title in decisions().items()),
        ],
    }
    for section in config.nav:
        ((title, pages),) = section.items()
        if title == "Start":
            pages += [f"notebooks/{path.stem}.md" for path in _notebooks()]
        if title == "Use":
            pages.insert(0, {"What can be chosen": [{g.title: g.page} for g in GROUPS]})
        section[title] = filled.get(title, pages)
    return config


def _by_room() -> list[Any]:
    """The API's pages: modules at the root, then every room with its modules."""
    rooms: dict[str, list[Any]] = {}
    for name in modules():
        parts = name.split(".")
        room = ".".join(parts[:2]) if (ROOT / "/".join(parts[:2])).is_dir() else parts[0]
        short = name.removeprefix(f"{room}.")
        rooms.setdefault(room, []).append({short: f"api/{name}.md"})
    # A package's own modules come before its rooms.
    return [{room: rooms[room]} for room in sorted(rooms, key=_order)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    for path, text in generated():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let the links of a page of the repository work on the site too."""
    if page.file.generated_by is not None:
        return markdown
    return for_site(markdown, f"docs/{page.file.src_uri}")


def on_page_content(content: str, page: Page, **_: Any) -> str:
    """Warn of a page that repository browsers, which read CommonMark, would show otherwise."""
    if page.file.generated_by is not None and page.file.src_uri != "index.md":
        return content
    there = MarkdownIt("commonmark").enable("table").render(page.markdown or "")
    for tag in _TAGS:
        here, elsewhere = (len(re.findall(f"<{tag}[ >]", text)) for text in (content, there))
        if here != elsewhere:
            log.warning(
                "%s has %d <%s> on the site and %d in CommonMark: set lists apart by an empty "
                "line, indent what belongs to them by four blanks, write * and _ as code",
                page.file.src_uri,
                here,
                tag,
                elsewhere,
            )
    return content
