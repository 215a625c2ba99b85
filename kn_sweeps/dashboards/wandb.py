"""One run directory as one run of Weights & Biases.

The client retries in the background and says nothing of what it had to give up, so that what
arrived is asked for afterwards. Every wait is bounded.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import wandb

from kn_sweeps.dashboards.figures import figures
from kn_sweeps.dashboards.place import NotPublishedError, Place
from kn_sweeps.dashboards.reading import PARTS, Published

PATIENCE_S = 60.0
"""How long a run that is published may take, if nothing else is said."""
PROGRESS = ("cases_done", "cases_total")
TABLES = ("metrics", "examples")
FIGURES = ("headline", "located_by_layer")


def server() -> str:
    """The address of the server that is used here."""
    return str(wandb.setup().settings.base_url)


def holds(place: Place, run_id: str) -> bool:
    """Yes: what was confirmed is not asked for again."""
    del place, run_id
    return True


def publish(run: Published, place: Place, patience_s: float = PATIENCE_S) -> str:
    """Bring a run to W&B, or up to date there; gives its address.

    Sending the same twice leaves there what sending it once does.

    Args:
        run: The run.
        place: Where it goes.
        patience_s: About how long it may take: a third for opening, half for sending, a sixth for
            asking what arrived.

    Raises:
        NotPublishedError: If it did not arrive as a whole.
    """
    with _staging() as folder:
        try:
            opened = _opened(run, place, folder, patience_s)
            _send(opened, run)
            opened.finish(exit_code=1 if run.state == "failed" else 0)
        except (wandb.errors.Error, TimeoutError, OSError) as error:
            raise NotPublishedError(_complaint(folder) or _one_line(error)) from error
        if complaint := _complaint(folder):
            raise NotPublishedError(complaint)
        _confirm(opened, run, patience_s / 6)
        return str(opened.url)


@contextmanager
def _staging() -> Iterator[Path]:
    """A folder for what the client leaves on disk, which goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="kn-sweeps-wandb-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _opened(run: Published, place: Place, folder: Path, patience_s: float) -> Any:
    opened = wandb.init(
        id=run.id,
        name=run.name,
        group=run.group,
        job_type="run",
        project=place.project,
        entity=place.entity,
        tags=list(place.tags),
        dir=str(folder),
        mode="online",
        resume="allow",
        reinit="create_new",
        settings=_settings(patience_s, ends=run.state != "running"),
    )
    # A run that is resumed has the tags and the config that it had.
    opened.tags = place.tags
    config: Any = opened.config  # its methods have no types
    config.update(dict(run.config), allow_val_change=True)
    return opened


def _settings(patience_s: float, *, ends: bool) -> wandb.Settings:
    """Bounded waiting, and nothing of this machine: the run's directory says where it ran."""
    waits = {
        f"x_{part}_{name}": value
        for part in ("graphql", "file_stream", "file_transfer")
        for name, value in (
            *(("retry_max", 2), ("timeout_seconds", patience_s / 8)),
            ("retry_wait_min_seconds", patience_s / 120),
            ("retry_wait_max_seconds", patience_s / 30),
        )
    }
    return wandb.Settings(
        silent=True,
        console="off",
        init_timeout=patience_s / 3,
        finish_timeout=patience_s / 2,
        finish_timeout_raises=True,
        x_update_finish_state=ends,
        x_disable_stats=True,
        x_disable_meta=True,
        x_save_requirements=False,
        disable_git=True,
        disable_code=True,
        **waits,
    )


def _send(opened: Any, run: Published) -> None:
    """Log what is not there yet: progress at the number of cases done, results one step later."""
    for step in run.progress:
        if step.done >= opened.starting_step:
            values = {"cases_done": step.done, "cases_total": step.total, "_timestamp": step.at}
            opened.log(values, step=step.done)
    there = dict(opened.summary)
    if run.metrics:
        after = run.progress[-1].done + 1 if run.progress else 0
        known = opened.starting_step > after and _differing(there, run.summary) == []
        if not known:
            opened.log(_results(run), step=max(after, opened.starting_step))
    for name in set(there) - set(run.summary) - {*PROGRESS, *TABLES, *FIGURES}:
        if not name.startswith("_"):
            del opened.summary[name]
    opened.summary.update(dict(run.summary))


def _results(run: Published) -> dict[str, Any]:
    # W&B makes charts of what is logged; what is only in the summary fills columns.
    values = {name: one["value"] for name, one in run.metrics.items() if one["value"] is not None}
    table: list[Iterable[Any]] = [
        [name, *(one[part] for part in PARTS)] for name, one in run.metrics.items()
    ]
    tables = {"metrics": wandb.Table(columns=["metric", *PARTS], data=table)}
    if run.examples is not None:
        tables["examples"] = wandb.Table(dataframe=run.examples)
    drawn = figures(run.metrics, run.summary)
    return {**values, **tables, **{name: wandb.Image(image) for name, image in drawn.items()}}


def _confirm(opened: Any, run: Published, patience_s: float) -> None:
    """Ask the server what it has; it may take a moment to have it.

    Raises:
        NotPublishedError: If that is not what was sent.
    """
    until = time.monotonic() + patience_s
    path = f"{opened.entity}/{opened.project}/{opened.id}"
    while True:
        try:
            wrong = _wrong(wandb.Api(timeout=max(1, round(patience_s))).run(path), run)
        except (wandb.errors.Error, ValueError, OSError) as error:
            wrong = _one_line(error)
        if not wrong:
            return
        if time.monotonic() > until:
            raise NotPublishedError(f"what was sent is not there: {wrong}")
        time.sleep(0.5)


def _wrong(there: Any, run: Published) -> str:
    """What is not on the server as it should be; empty if all is."""
    if there.state != run.state:
        return f"its state is {there.state}, not {run.state}"
    if differing := _differing(dict(there.summary), run.summary):
        return f"its summary has another {', '.join(differing)}"
    if run.progress and there.lastHistoryStep < run.progress[-1].done:
        return f"its history ends at step {there.lastHistoryStep}"
    return ""


def _differing(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names of what a summary has otherwise than wanted."""

    def plain(value: Any) -> Any:
        # The client wraps mappings; JSON has neither tuples nor 1.0 apart from 1.
        return json.loads(json.dumps(value, default=dict))

    return [name for name, value in wanted.items() if plain(there.get(name)) != plain(value)]


def _complaint(folder: Path) -> str:
    """The first error in the client's own log, which is all it says of what it gave up."""
    errors = []
    for path in sorted(folder.glob("wandb/*/logs/debug-internal.log")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                entry = json.loads(line)
                if str(entry.get("level", "")).startswith("ERROR"):
                    errors.append(entry)
    # A bare status says less than the line that follows it.
    errors.sort(key=lambda entry: entry["msg"] == "api: HTTP error")
    if not errors:
        return ""
    first = errors[0]
    more = [str(first[key]) for key in ("error", "status") if key in first]
    return _one_line(": ".join([first["msg"], *more]))


def _one_line(error: object) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:299] + "…"
