"""Which runs of a sweep there are to publish, and whether more are to come."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from kn_sweeps.dashboards.place import Place, Where
from kn_sweeps.dashboards.publisher import Candidate
from kn_sweeps.dashboards.reading import said_to_run, state_of
from kn_sweeps.dashboards.tracker import WandB
from kn_sweeps.records.naming import names
from kn_sweeps.records.run_directory import RunDirectory, runs_in
from kn_sweeps.sweeps import slurm
from kn_sweeps.sweeps.record import launches


class Sweep:
    """The runs of a sweep, as its folder has them now."""

    def __init__(
        self,
        folder: Path,
        project: str | None = None,
        entity: str | None = None,
        where: Where | None = None,
    ) -> None:
        """Name the folder; what is given here wins over what the runs' configs say."""
        self.folder, self._project, self._entity, self._where = folder, project, entity, where
        self._configs: dict[Path, tuple[int, dict[str, Any]]] = {}

    def candidates(self) -> tuple[list[Candidate], dict[Path, str]]:
        """The runs, and why those that cannot be read cannot.

        Runs whose config says `tracker.mode=disabled` are left out.
        """
        configs, broken = {}, {}
        for directory in runs_in(self.folder):
            try:
                configs[directory.path] = self._config(directory)
            except (OSError, ValueError) as error:
                broken[directory.path] = str(error)
        named = names({path.name: config for path, config in configs.items()})
        found = [
            Candidate(path, named[path.name], self._place(config.get("tracker") or {}))
            for path, config in configs.items()
            if (config.get("tracker") or {}).get("mode") != "disabled"
        ]
        return found, broken

    def jobs(self) -> set[str]:
        """Jobs of the cluster that are running, if a run says it is part of one.

        Where Slurm does not answer there are none.
        """
        told = [said_to_run(one.path) for one in runs_in(self.folder)]
        if not any(told):
            return set()
        return {item.job for item in _queue() if item.running}

    def more_to_come(self, jobs: Collection[str]) -> bool:
        """Whether a run is running or waits for its turn."""
        if any(state_of(one.path, jobs) == "running" for one in runs_in(self.folder)):
            return True
        known = launches(self.folder)
        if any(launch.is_at_work() for launch in known):
            return True
        waiting = {
            launch.job_name(n)
            for launch in known
            if launch.kind == "slurm"
            for n in range(len(launch.arrays))
        }
        return bool(waiting) and any(item.name in waiting for item in _queue())

    def _config(self, directory: RunDirectory) -> dict[str, Any]:
        """A run's config, read again only where it changed."""
        written = directory.config_path.stat().st_mtime_ns
        if self._configs.get(directory.path, (0,))[0] != written:
            self._configs[directory.path] = (written, directory.config())
        return self._configs[directory.path][1]

    def _place(self, tracker: Mapping[str, Any]) -> Place:
        own: Where = "trackio" if _is_trackio(tracker) else "wandb"
        return Place(
            where=self._where or own,
            project=self._project or tracker.get("project") or WandB.project,
            entity=self._entity or tracker.get("entity"),
            tags=tuple(tracker.get("tags") or ()),
            sample_rows=tracker.get("sample_rows", Place.sample_rows),
        )


def _is_trackio(tracker: Mapping[str, Any]) -> bool:
    return str(tracker.get("_target_", "")).endswith(".Trackio")


def _queue() -> list[slurm.Queued]:
    if not slurm.available():
        return []
    try:
        return slurm.queue()
    except ValueError:
        return []
