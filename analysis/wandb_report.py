"""The comparison of a sweep as a saved W&B workspace and report.

    kn-sweeps wandb-report SWEEP [--entity NAME] [--project NAME] [--dry-run]

The runs must be on W&B: `kn-sweeps sync SWEEP` brings them there. Every call makes a new
workspace and a new report. --dry-run prints both as JSON; it needs no server and no entity.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kn_sweeps.commands.console import Parser, command, remark, say
from kn_sweeps.dashboards.tracker import WandB
from kn_sweeps.records.folders import find_folder
from kn_sweeps.records.run_directory import RunDirectory, runs_below

from .runs import provenance_of
from .summaries import find_runs

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    from .wandb_spec import Place

UNNAMED = "ENTITY"
"""Stands for the team or user in a dry run that names none."""
INSTALL = (
    "W&B workspaces and reports need wandb-workspaces, which is not installed: "
    "pip install wandb-workspaces (in a checkout: pip install -e '.[wandb]')"
)


def place_of(
    folder: Path, entity: str | None = None, project: str | None = None, *, saved: bool = True
) -> Place:
    """Where the finished runs of a folder report to.

    Args:
        folder: A sweep's folder.
        entity: Instead of the runs' own `tracker.entity`, or WANDB_ENTITY where they name none.
        project: Instead of the runs' own `tracker.project`, or the usual one where they have none.
        saved: Whether it is for more than to be looked at, which needs an entity.

    Raises:
        ValueError: If that is not one place, or there is no entity where it takes one.
    """
    from .wandb_spec import Place

    configs = {one.path: _config(one) for one in runs_below(folder) if one.done()}
    trackers = [config.get("tracker") or {} for config in configs.values()]
    sweeps = {str(config.get("sweep") or run.parent.name) for run, config in configs.items()}
    if len(sweeps) != 1:
        raise ValueError(f"{folder} has {len(sweeps)} sweeps: {_listed(sweeps)}; name one of them")
    entities = {entity} if entity else {t["entity"] for t in trackers if t.get("entity")}
    own = {str(t.get("project") or WandB.project) for t in trackers}
    projects = {project} if project else own
    for name, found in (("entity", entities), ("project", projects)):
        if len(found) > 1:
            raise ValueError(
                f"the runs report to more than one {name}: {_listed(found)}; choose with --{name}"
            )
    entities = entities or {os.environ.get("WANDB_ENTITY")} - {None, ""} or {UNNAMED}
    if saved and entities == {UNNAMED}:
        raise ValueError(
            "W&B needs to know whose project it is, and the runs name no entity: give the team or "
            "user with --entity NAME (or WANDB_ENTITY, or tracker.entity=NAME when launching)"
        )
    (owner,), (named,), (group,) = entities, projects, sweeps
    return Place(str(owner), str(named), group, len(configs))


def save(workspace: ws.Workspace, report: wr.Report, place: Place) -> list[str]:
    """Save both; this is all that needs a server.

    Returns:
        Their URLs.

    Raises:
        ValueError: If no run of the sweep is there, or W&B cannot be reached or refuses.
    """
    import wandb

    from .wandb_spec import grids

    project = f"{place.entity}/{place.project}"
    try:
        if not len(wandb.Api().runs(project, filters={"group": place.sweep})):
            raise ValueError(f"{project} has no run of the sweep {place.sweep}")
        for grid in grids(report):
            for runs in grid.runsets:
                runs.entity, runs.project = place.entity, place.project
        workspace.save()
        report.save()
    # The library raises wandb's errors, requests' and bare Exceptions.
    except Exception as error:
        raise ValueError(
            f"could not save to W&B, project {project}: {str(error).rstrip('.')}. Log in with "
            f"`wandb login` and upload the runs with `kn-sweeps sync {place.sweep}` "
            "first; --dry-run shows what would be saved"
        ) from error
    return [str(workspace.url), str(report.url)]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser.of("wandb-report", __doc__, "python -m analysis.wandb_report")
    parser.add_argument("sweep", help="results/NAME or NAME")
    parser.add_argument("--entity", help="W&B team or user (default: the runs' tracker.entity)")
    parser.add_argument("--project", help="W&B project (default: the runs' tracker.project)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be saved, as JSON")
    return parser.parse_args(arguments)


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Save the workspace and the report of one sweep."""
    args = parse(arguments)
    try:
        from . import wandb_spec
    except ImportError as error:
        if not (error.name or "").startswith("wandb_workspaces"):
            raise
        raise ValueError(INSTALL) from error
    folder = find_folder(args.sweep)
    found = find_runs(folder)
    for path, reason in found.broken.items():
        remark(f"could not read {path}: {reason}")
    if not found.summaries:
        raise ValueError(f"no finished runs below {folder}; {found.unfinished} unfinished")
    place = place_of(folder, args.entity, args.project, saved=not args.dry_run)
    workspace = wandb_spec.workspace(found.summaries, place)
    report = wandb_spec.report(found.summaries, _provenance(folder), place)
    if args.dry_run:
        say(wandb_spec.as_json(workspace, report))
    else:
        say("workspace: {}\nreport:    {}".format(*save(workspace, report, place)))
    if found.unfinished:
        remark(f"not in the report: {found.unfinished} unfinished")


def _config(run: RunDirectory) -> dict[str, Any]:
    """A run's config; empty where it cannot be read."""
    try:
        return run.config()
    except (OSError, ValueError):
        return {}


def _provenance(folder: Path) -> list[Mapping[str, Any]]:
    """Where the numbers of each finished run come from, as far as it can be read."""
    read = [provenance_of(one) for one in runs_below(folder) if one.done()]
    return [one for one in read if one]


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


if __name__ == "__main__":
    sys.exit(main())
