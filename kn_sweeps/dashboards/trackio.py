"""One run directory as one run of Trackio's store on this machine: no account, no network.

A run that changed is written anew as a whole, so that there is exactly one run an id, with every
step once, whatever was there before.
"""

from __future__ import annotations

import os
import sqlite3
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kn_sweeps.dashboards.figures import figures
from kn_sweeps.dashboards.place import MISSING, TRACKIO_STORE, NotPublishedError, Place
from kn_sweeps.dashboards.place import trackio_store as _store
from kn_sweeps.dashboards.reading import PARTS, Published
from kn_sweeps.records.files import held

if TYPE_CHECKING:
    from trackio.sqlite_storage import SQLiteStorage


def server() -> str:
    """What tells this store from others."""
    return f"trackio {_store()}"


def holds(place: Place, run_id: str) -> bool:
    """Whether the store has a run: its files can be deleted, and runs on the page."""
    try:
        return _storage().get_max_step_for_run(place.project, run_id=run_id) is not None
    except (ImportError, sqlite3.Error):
        return False  # publishing says why


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
        storage = _storage()
    except ImportError as error:
        raise NotPublishedError(MISSING) from error
    from trackio.media import get_project_media_path

    media = get_project_media_path(place.project, run.id)
    superseded = [path for path in media.rglob("*") if path.is_file()]
    history = _history(run, place)
    steps = [step for step, _, _ in history]
    store = storage.get_project_db_path(place.project)
    try:
        with held(store.with_suffix(".publishing"), wait=True):
            storage.delete_run(place.project, run.name, run.id)
            storage.bulk_log(
                project=place.project,
                run=run.name,
                run_id=run.id,
                metrics_list=[values for _, _, values in history],
                steps=steps,
                timestamps=[_told(at) for _, at, _ in history],
                config=_config(run, place),
            )
            there = [line["step"] for line in storage.get_logs(place.project, run_id=run.id)]
    except sqlite3.Error as error:
        raise NotPublishedError(f"{store}: {error}") from error
    if there != steps:
        raise NotPublishedError(f"{store}: it has steps {there} of the run, not {steps}")
    for path in superseded:
        path.unlink(missing_ok=True)
    return f"{store} {run.id}"


def _storage() -> type[SQLiteStorage]:
    # Trackio reads it once, when it is imported, and knows no `~`.
    os.environ[TRACKIO_STORE] = str(_store())
    from trackio.sqlite_storage import SQLiteStorage

    return SQLiteStorage


def _config(run: Published, place: Place) -> dict[str, Any]:
    """What Trackio shows of a run beside its numbers; it groups runs by any of it."""
    from trackio.utils import to_json_safe

    about = {name: value for name, value in run.summary.items() if not isinstance(value, float)}
    config = {name: value for name, value in run.config.items() if not name.startswith("_")}
    created = run.progress[0].at if run.progress else time.time()
    told = {"run_id": run.id, "state": run.state, "tags": list(place.tags), "summary": about}
    own = {"_Group": run.group, "_Created": _told(created)}
    safe: dict[str, Any] = to_json_safe({**config, **told, **own})
    return safe


def _history(run: Published, place: Place) -> list[tuple[int, float, dict[str, Any]]]:
    """Step, time and values: the cases done, and the results one step later.

    A run of which nothing is known yet has a line too, as Trackio lists no run without.
    """
    history: list[tuple[int, float, dict[str, Any]]] = [
        (step.done, step.at, {"cases_done": step.done, "cases_total": step.total})
        for step in run.progress
    ]
    if run.metrics:
        after, at = (history[-1][0] + 1, history[-1][1]) if history else (0, time.time())
        history.append((after, at, _results(run, place, after)))
    return history or [(0, time.time(), {"cases_done": 0})]


def _results(run: Published, place: Place, step: int) -> dict[str, Any]:
    """Every metric, examples, a table of all metrics with their intervals, and figures.

    The page shows first what is last.
    """
    import trackio

    values = {name: one["value"] for name, one in run.metrics.items() if one["value"] is not None}
    rows = [[name, *(one[part] for part in PARTS)] for name, one in run.metrics.items()]
    tables = {}
    if run.examples is not None:
        tables["examples"] = trackio.Table(dataframe=run.examples)
    tables["estimates"] = trackio.Table(columns=["metric", *PARTS], data=rows)
    drawn = {}
    for name, image in reversed(figures(run.metrics, run.summary).items()):
        picture = trackio.Image(image)
        # Under the id: names change, and may be no names of folders.
        picture._save(place.project, run.id, step)
        drawn[name] = picture._to_dict()
    shown = {name: table._to_dict(place.project, run.id, step) for name, table in tables.items()}
    return {**values, **shown, **drawn}


def _told(at: float) -> str:
    """Seconds since 1970 as Trackio has them."""
    return datetime.fromtimestamp(at, UTC).isoformat()
