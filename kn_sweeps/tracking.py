"""Where results are reported besides the run directory: Weights & Biases, or nowhere.

The run directory is the source of truth; a tracker only repeats what is in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import pandas as pd

_SAMPLE_COLUMNS = (
    *("case", "kind", "group", "prefix", "suffix", "old", "new", "pre_answer", "post_answer"),
    *("pre_margin", "post_margin", "kl"),
)


class Report(Protocol):
    """One run's line to a tracker."""

    def progress(self, done: int, total: int) -> None:
        """Tell how many cases are done."""

    def results(self, summary: Mapping[str, Any], rows: pd.DataFrame) -> None:
        """Report the headline numbers and sample rows."""


@runtime_checkable
class Tracker(Protocol):
    """Opens a report for a run; an exception inside marks the run as failed."""

    def open(
        self, run_id: str, name: str, sweep: str, config: Mapping[str, Any], directory: Path
    ) -> AbstractContextManager[Report]:
        """Open a report.

        Args:
            run_id: The run's id; a continued run keeps it.
            name: What people call it.
            sweep: The sweep's name; runs are grouped by it.
            config: The resolved config.
            directory: The sweep's directory.
        """


class _Silent:
    def progress(self, done: int, total: int) -> None:
        """Nothing."""

    def results(self, summary: Mapping[str, Any], rows: pd.DataFrame) -> None:
        """Nothing."""


@dataclass(frozen=True)
class NoTracker:
    """Report nowhere; wandb is not imported."""

    def open(
        self,
        run_id: str,  # noqa: ARG002
        name: str,  # noqa: ARG002
        sweep: str,  # noqa: ARG002
        config: Mapping[str, Any],  # noqa: ARG002
        directory: Path,  # noqa: ARG002
    ) -> AbstractContextManager[Report]:
        """A report that does nothing."""
        return nullcontext(_Silent())


@dataclass(frozen=True)
class WandB:
    """Weights & Biases.

    Attributes:
        mode: `offline` keeps logs under the sweep's directory for `wandb sync`; `online` needs an
            account; `disabled` does nothing.
        project: The W&B project.
        entity: The W&B team or user; null for the default.
        tags: Tags of the run.
        sample_rows: How many rows go into the table of examples.
    """

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "kn_sweeps"
    entity: str | None = None
    tags: tuple[str, ...] = ()
    sample_rows: int = 50

    @contextmanager
    def open(
        self, run_id: str, name: str, sweep: str, config: Mapping[str, Any], directory: Path
    ) -> Iterator[Report]:
        """Open a W&B run whose id is the run's own and whose group is the sweep."""
        import wandb  # slow to import, and not wanted with tracker=none

        try:
            run = wandb.init(
                id=run_id,
                name=name,
                group=sweep,
                job_type="run",
                project=self.project,
                entity=self.entity,
                tags=list(self.tags),
                config=dict(config),
                mode=self.mode,
                dir=str(directory),
                reinit="finish_previous",
                resume="allow" if self.mode == "online" else None,
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            raise ValueError(
                f"W&B could not be started with tracker.mode={self.mode}: {error}. Use "
                "tracker.mode=offline and sync later, or tracker=none"
            ) from error
        try:
            yield _WandBReport(run, self.sample_rows)
        except BaseException:
            run.finish(exit_code=1)
            raise
        run.finish()


class _WandBReport:
    def __init__(self, run: Any, sample_rows: int) -> None:
        self._run = run
        self._sample_rows = sample_rows

    def progress(self, done: int, total: int) -> None:
        """Log the number of finished cases."""
        self._run.log({"cases": done, "cases_total": total})

    def results(self, summary: Mapping[str, Any], rows: pd.DataFrame) -> None:
        """Write headline numbers to the run's summary and log a table of sample rows."""
        import wandb

        for key in ("model", "source", "dataset", "method", "intent", "seed", "cases"):
            self._run.summary[key] = summary[key]
        for name, estimate in summary["metrics"].items():
            self._run.summary[name] = estimate["value"]
            for part in ("low", "high", "n"):
                self._run.summary[f"{name}_{part}"] = estimate[part]
        sample = rows.head(self._sample_rows)[list(_SAMPLE_COLUMNS)]
        self._run.log({"examples": wandb.Table(dataframe=sample)})
