"""Putting the sections into one page that needs nothing from outside itself.

What a browser may run is named by its hash in the page's own policy: text of a data set cannot
become code, whatever it is.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..comparing import every_pair
from ..runs import Run
from ..summaries import Found
from ..table import comparison_rows
from .comparison import comparison
from .examples import examples
from .neurons import heat_maps
from .overview import overview
from .studies import studies

STATIC = Path(__file__).with_name("static")
SCRIPTS = ("dom", "comparison", "intervals", "heatmaps", "readings", "examples", "start")


def page(folders: Sequence[Path], figures_in: Path, runs: Sequence[Run], found: Found) -> str:
    """The report as HTML.

    Args:
        folders: The sweeps' folders.
        figures_in: Where their figures are drawn.
        runs: Their finished runs.
        found: What else lies there.
    """
    environment = Environment(
        loader=FileSystemLoader(STATIC), autoescape=True, undefined=StrictUndefined
    )
    # `tojson` escapes what could end a script element; NaN, which JSON does not have, is refused.
    environment.policies["json.dumps_kwargs"] = {
        "separators": (",", ":"),
        "ensure_ascii": False,
        "allow_nan": False,
    }
    style = _static("report.css")
    script = "\n".join(['"use strict";(() => {', *(_static(f"{s}.js") for s in SCRIPTS), "})();"])
    data: dict[str, Any] = {
        "comparison": comparison(runs),
        "heat_maps": heat_maps(runs),
        "examples": examples(runs),
    }
    pairs = [one.columns() for one in every_pair(runs)]
    figures, no_figures = studies(folders, figures_in)
    html = environment.get_template("report.html").render(
        name=", ".join(folder.resolve().name for folder in folders),
        overview=overview(folders, runs, found),
        paired=comparison_rows(pairs, power=True) if pairs else [],
        studies=figures,
        no_studies=no_figures,
        data=data,
        policy=policy(style, script),
        style=Markup(style),
        script=Markup(script),
    )
    # Not every file name is Unicode.
    return html.encode("utf-8", "replace").decode("utf-8")


def policy(style: str, script: str) -> str:
    """The Content-Security-Policy: this style, this script, embedded images, and nothing else."""
    rules = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")
