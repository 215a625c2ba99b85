"""What the W&B workspace and report of a sweep say, built from its summaries alone.

Nothing here needs a server or an account; `analysis.wandb_report` saves what is built here. Runs
are never aggregated in a panel, so `replace` and `erase` edits are never averaged.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from kn_sweeps.metrics.catalogue import quantity

from .summaries import IDENTITY, Summary, identity_columns, metric_names
from .table import blocks, chosen_metrics, one_line

INTENTS = {
    "replace": "Replace edits: the model should answer something new",
    "erase": "Erase edits: the model should lose its old answer",
}
TABLES = ("metrics", "examples")
FIGURES = {"headline": "metrics", "located_by_layer": "neurons_by_layer"}
"""The figures of a run, and what its summary has where there is one."""
"""What a run logs: `kn_sweeps.dashboards.tracker`."""
COLUMNS = 24  # of a report's panel grid
SIZE = {"w": 8, "h": 8}
TITLE_LENGTH = 128  # W&B refuses longer ones
MARKDOWN = frozenset("\\`*_{}[]<>#|~$!&\"'")


# The library wants lists of a union of its panel classes, which no list of one class is.
Panels = list[Any]


@dataclass(frozen=True)
class Place:
    """Where a sweep's runs are on W&B.

    Attributes:
        entity: The team or user.
        project: The project.
        sweep: The group of the runs.
        runs: How many there are; the shards of one run count each.
    """

    entity: str
    project: str
    sweep: str
    runs: int


def workspace(summaries: Sequence[Summary], place: Place) -> ws.Workspace:
    """The workspace: one bar a run for every headline metric, then figures, tables and settings.

    The list of runs shows each headline metric with its interval and n, which bars do not have.
    """
    metrics = chosen_metrics(None, summaries)
    about = ("intent", "dataset", "model", "method")
    numbers = [m + part for m in metrics for part in ("", "_low", "_high", "_n")]
    return ws.Workspace(
        entity=place.entity,
        project=place.project,
        name=_title(place),
        sections=[
            ws.Section(name="Comparison", panels=_bars(metrics, summaries, place), is_open=True),
            ws.Section(name="Figures", panels=_figures(summaries), is_open=True),
            ws.Section(name="Tables", panels=_tables()),
            ws.Section(name="What differs", panels=[wr.RunComparer(diff_only="split")]),
        ],
        settings=ws.WorkspaceSettings(max_runs=max(place.runs, 10)),  # 10 is W&B's default
        runset_settings=ws.RunsetSettings(
            filters=_filter(place),
            order=[expr.Ordering(expr.Summary(name), ascending=True) for name in about],
            pinned_columns=[f"summary:{name}" for name in (*about, *numbers)],
        ),
    )


def report(
    summaries: Sequence[Summary], provenance: Sequence[Mapping[str, Any]], place: Place
) -> wr.Report:
    """The report: the comparison by intent and dataset, what ran, and all metrics.

    Args:
        summaries: As `analysis.summaries.find_runs` gives them.
        provenance: Of each run, as in its `provenance.json`.
        place: Where the runs are. Panels name no project yet: W&B asks the server for its id.
    """
    intents = sorted({s["intent"] for s in summaries}, key=lambda i: (i != "replace", i))
    comparison: list[Any] = []
    for intent in intents:
        comparison.append(wr.H1(text=INTENTS.get(intent, f"Edits of intent {intent}")))
        for dataset in sorted({s["dataset"] for s in summaries if s["intent"] == intent}):
            chosen = [s for s in summaries if (s["intent"], s["dataset"]) == (intent, dataset)]
            comparison += _compared(chosen, place, intent, dataset)
    return wr.Report(
        entity=place.entity,
        project=place.project,
        title=_title(place),
        description=f"{len(summaries)} runs of the sweep {one_line(place.sweep)}",
        width="fluid",
        blocks=[
            wr.TableOfContents(),
            wr.P(text=_how_to_read(summaries, place)),
            *comparison,
            wr.H1(text="What ran"),
            wr.UnorderedList(items=_what_ran(summaries, provenance)),
            wr.H1(text="All metrics"),
            wr.MarkdownBlock(text=_markdown(summaries, metric_names(summaries))),
        ],
    )


def as_json(workspace: ws.Workspace, report: wr.Report) -> str:
    """Both as W&B stores them, without asking a server."""
    models = {"workspace": workspace._to_model(), "report": report._to_model()}
    dumped = {k: m.model_dump(mode="json", by_alias=True) for k, m in models.items()}
    return json.dumps(dumped, indent=2)


def grids(report: wr.Report) -> list[wr.PanelGrid]:
    """The report's panel grids."""
    return [block for block in report.blocks if isinstance(block, wr.PanelGrid)]


def _compared(
    summaries: Sequence[Summary], place: Place, intent: str, dataset: str
) -> Iterable[Any]:
    """A heading, the table with intervals and n, and panels of the runs in it."""
    metrics = chosen_metrics(None, summaries)
    panels: Panels = [*_bars(metrics, summaries, place), *_figures(summaries), *_tables()]
    across = COLUMNS // SIZE["w"]
    for index, panel in enumerate(panels):
        row, column = divmod(index, across)
        panel.layout = wr.Layout(x=column * SIZE["w"], y=row * SIZE["h"], **SIZE)
    runs = wr.Runset(
        name=one_line(f"{dataset}, {intent}"),
        filters=_filter(place, intent=intent, dataset=dataset),
        order=[wr.OrderBy(wr.SummaryMetric(n), ascending=True) for n in ("model", "method")],
    )
    yield wr.H2(text=one_line(dataset))
    yield wr.MarkdownBlock(text=_markdown(summaries, metrics))
    yield wr.PanelGrid(runsets=[runs], panels=panels)


def _bars(metrics: Sequence[str], summaries: Sequence[Summary], place: Place) -> Panels:
    """A bar chart a metric, a bar a run; named by what the run is and what tells it apart."""
    extra = identity_columns(summaries)[len(IDENTITY) :]
    settings = [c for c in extra if c not in ("run", "sweep", "shard")]
    legend = [
        "${summary:intent}",
        "${run:displayName}",
        *(f"{c}=${{config:{c}}}" for c in settings),
    ]
    return [
        wr.BarPlot(
            title=metric,
            metrics=[metric],
            orientation="h",
            range_x=(0, 1) if about.is_share else (None, None),
            title_x=about.unit or None,
            legend_template=" ".join(legend),
            max_runs_to_show=place.runs,
            max_bars_to_show=place.runs,
        )
        for metric in metrics
        for about in [quantity(metric)]
    ]


def _figures(summaries: Sequence[Summary]) -> Panels:
    """What runs drew: headline metrics with intervals, located neurons where a run has them."""
    drawn = [key for key, of in FIGURES.items() if any(of in one for one in summaries)]
    return [wr.MediaBrowser(title=key.replace("_", " "), media_keys=[key]) for key in drawn]


def _tables() -> Panels:
    return [wr.WeavePanelSummaryTable(table_name=name) for name in TABLES]


def _filter(place: Place, **about: str) -> str:
    """W&B's filter for the sweep's runs that finished with these values in their summary."""
    conditions = [f"Metric('Group') == {_quoted(place.sweep)}"]
    conditions += [f"Summary('{key}') == {_quoted(value)}" for key, value in about.items()]
    return " and ".join(conditions)


def _quoted(text: str) -> str:
    """A string literal for a filter.

    The library rewrites `=` to `==` also inside quotes, and does not escape: only what cannot be
    an operator or a quote is written as itself.
    """
    plain = (c if c.isascii() and c.isalnum() else f"\\U{ord(c):08x}" for c in text)
    return f"'{''.join(plain)}'"


def _title(place: Place) -> str:
    """The name of the sweep, without the signs that W&B refuses in a title."""
    refused = ("So", "Sk", "Sm", "Sc", "Cs")
    kept = (
        "_" if unicodedata.category(c).startswith(refused) else c for c in one_line(place.sweep)
    )
    return f"kn_sweeps: {''.join(kept)}"[:TITLE_LENGTH]


def escaped(text: str) -> str:
    """Text that Markdown and HTML show as it is, also inside a table."""
    return "".join(f"&#{ord(c)};" if c in MARKDOWN else c for c in one_line(text))


def _markdown(summaries: Sequence[Summary], metrics: Sequence[str]) -> str:
    """A Markdown table, one row a run: what it is, then value, interval and n of each metric."""
    head, *rows = next(blocks(summaries, metrics, sys.maxsize))
    lines = [[escaped(text) for text in head], ["---"] * len(head)]
    lines += [[escaped(text) for text in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _how_to_read(summaries: Sequence[Summary], place: Place) -> str:
    """What the numbers are, and what panels leave out."""
    text = (
        f"{len(summaries)} finished runs of the sweep {one_line(place.sweep)}. Tables give value "
        "[95 % bootstrap interval over edits] n=probes; bars and lists show one run each, never "
        "an average. Tables were written with this report; panels follow the runs on W&B."
    )
    if place.runs != len(summaries):
        text += f" Tables join the shards of a run; panels show all {place.runs} shards."
    return text


def _what_ran(summaries: Sequence[Summary], provenance: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Models, methods, data, code and machines, each with the number of runs."""

    def commit(run: Mapping[str, Any]) -> str:
        return str(run.get("commit"))[:12] + (" with local changes" if run.get("dirty") else "")

    def packages(run: Mapping[str, Any]) -> str:
        versions = run.get("packages") or {}
        return ", ".join(f"{k} {versions[k]}" for k in ("torch", "transformers") if k in versions)

    facts = {
        "Models": [f"{s['model']} ({s['source']} data)" for s in summaries],
        "Methods": [f"{s['method']} ({s['intent']})" for s in summaries],
        "Protocol": [s["protocol"] for s in summaries if "protocol" in s],
        "Data": [f"{p.get('data_source')} {p.get('data_fingerprint')}" for p in provenance],
        "Commit": [commit(p) for p in provenance],
        "Device": [f"{p.get('device')} {p.get('dtype')}" for p in provenance],
        "Packages": [packages(p) for p in provenance],
    }
    return [one_line(f"{name}: {_counted(values)}") for name, values in facts.items() if values]


def _counted(values: Iterable[str]) -> str:
    """Every value once, with how often it occurs."""
    counts = sorted(Counter(values).items())
    return "; ".join(f"{value} ({n} {'run' if n == 1 else 'runs'})" for value, n in counts)
