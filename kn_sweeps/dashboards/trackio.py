"""One run directory as one run of Trackio's store on this machine: no account, no network.

The store is a file that this process alone writes a run to at a time, so a run that changed is
written anew as a whole: exactly one run an id, whatever was there before.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Mapping
from typing import Any

from kn_sweeps.dashboards.figures import figures
from kn_sweeps.dashboards.place import MISSING, NotPublishedError, Place
from kn_sweeps.dashboards.reading import PARTS, Published


def publish(run: Published, place: Place, patience_s: float) -> str:
    """Write a run to the store, or anew where it was; gives where it is.

    Args:
        run: The run.
        place: Where it goes.
        patience_s: Unused: the store is on this machine.

    Raises:
        NotPublishedError: If it did not arrive as a whole.
    """
    del patience_s
    try:
        trackio: Any = importlib.import_module("trackio")
        from trackio.sqlite_storage import SQLiteStorage
    except ImportError as error:
        raise NotPublishedError(MISSING) from error
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        SQLiteStorage.init_db(place.project)
        SQLiteStorage.delete_run(place.project, run.name, run.id)
        opened = trackio.Run(
            url=None,
            project=place.project,
            client=None,
            name=run.name,
            run_id=run.id,
            group=run.group,
            config=_config(run, place),
        )
        for step in run.progress:
            opened.log({"cases_done": step.done, "cases_total": step.total}, step=step.done)
        after = run.progress[-1].done + 1 if run.progress else 0
        opened.log(_results(run, trackio), step=after)
        opened.finish()
    there = SQLiteStorage.get_max_step_for_run(place.project, run_id=run.id)
    if there != after:
        raise NotPublishedError(f"what was sent is not there: its history ends at step {there}")
    return f"{SQLiteStorage.get_project_db_path(place.project)} {run.id}"


def _config(run: Published, place: Place) -> dict[str, Any]:
    """What Trackio shows of a run beside its numbers."""
    about = {name: value for name, value in run.summary.items() if not isinstance(value, float)}
    told = {"run_id": run.id, "state": run.state, "tags": list(place.tags), "summary": about}
    return {**{name: value for name, value in run.config.items() if name[:1] != "_"}, **told}


def _results(run: Published, trackio: Any) -> Mapping[str, Any]:
    """Every metric, a table of all with their intervals, figures and examples."""
    values = {name: one["value"] for name, one in run.metrics.items() if one["value"] is not None}
    if not run.metrics:
        return {"state": run.state, **values}
    rows = [[name, *(one[part] for part in PARTS)] for name, one in run.metrics.items()]
    tables = {"estimates": trackio.Table(columns=["metric", *PARTS], data=rows)}
    if run.examples is not None:
        tables["examples"] = trackio.Table(dataframe=run.examples)
    drawn = figures(run.metrics, run.summary)
    return {
        **values,
        **tables,
        **{name: trackio.Image(image) for name, image in drawn.items()},
    }
