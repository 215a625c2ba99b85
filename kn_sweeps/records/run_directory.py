"""The run directory: what a run leaves on disk, and the only place that names its files.

    results/<sweep>/<run id>/
        config.yaml  provenance.json  run.log  status.json  progress.jsonl
        parts/       finished chunks of cases, while the run is under way (`chunks`)
        rows.parquet  neurons.json  attributions.safetensors  edits.safetensors
        measurements/  one parquet file a measurement
        summary.json  written last: it marks the run as done
        verdicts.json  what judges said of its answers, if any did

Every file appears by rename, so it is whole or absent. summary.json holds the checksums of the
others. What is damaged is noticed when it is read, moved aside and computed again (`integrity`).
docs/results.md says what is in each file. Reading here loads no model library; what reads tables
loads pandas.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kn_sweeps.records.chunks import Chunks, write_frame
from kn_sweeps.records.configs import read_config, write_config
from kn_sweeps.records.files import held, held_by, is_held, write_atomically, write_json
from kn_sweeps.records.integrity import (
    DamagedError,
    checksum,
    quarantined,
    read_sealed,
    unless_damaged,
    verify,
    write_sealed,
)
from kn_sweeps.row import head_rows, join_rows, read_rows

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from kn_sweeps.edits import Edit
    from kn_sweeps.metrics.base import Results

CONFIG, SUMMARY = "config.yaml", "summary.json"
"""A run has the first once it has begun, the second once it is done."""
STATUS, HISTORY = "status.json", "progress.jsonl"

_AGAIN = "the command that made the run computes it again"
_NOT_A_RUN = {".hydra", "wandb"}
"""Folders inside a run that keep a config.yaml of their own."""


class RunBusyError(ValueError):
    """Another process is working on the run."""


class RunDirectory:
    """One run on disk.

    Attributes:
        path: The directory.
        config_path: What the run was asked for.
        summary_path: The file that marks the run as done.
        status_path: How far it is.
        history_path: When it was how far.
        log_path: What it said.
        rows_path: Its rows.
        attributions_path: Its neuron scores.
        chunks: Its finished chunks, while it is under way.
    """

    def __init__(self, path: Path) -> None:
        """Name the directory; it is created by `opened`."""
        self.path = path
        self.config_path, self.summary_path = path / CONFIG, path / SUMMARY
        self.status_path, self.history_path = path / STATUS, path / HISTORY
        self.log_path = path / "run.log"
        self.rows_path = path / "rows.parquet"
        self.attributions_path = path / "attributions.safetensors"
        self.chunks = Chunks(path / "parts")
        self._lock = path / ".lock"
        self._located = path / "neurons.json"
        self._edits = path / "edits.safetensors"
        self._provenance = path / "provenance.json"
        self._measurements = path / "measurements"
        self._verdicts = path / "verdicts.json"

    def done(self, since: str | None = None) -> bool:
        """Whether the run is finished, and, given a launch's id, by that launch or a later one."""
        if since is None or not self.summary_path.is_file():
            return self.summary_path.is_file()
        summary = unless_damaged(self.summary, _AGAIN)
        return summary is not None and str(summary.get("launch") or "") >= since

    def summary(self) -> dict[str, Any]:
        """What a finished run's summary says.

        Raises:
            DamagedError: If it is not what was written.
            FileNotFoundError: If the run is not finished.
        """
        return read_sealed(self.summary_path)

    def config(self) -> dict[str, Any]:
        """The config that the run is done with.

        Raises:
            DamagedError: If it is not what was written.
            FileNotFoundError: If the run has not begun.
        """
        return read_config(self.config_path)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Say what the run is asked for."""
        write_config(self.config_path, config)

    def whole(self, *, thorough: bool, aside: bool = True) -> bool:
        """Whether a finished run's files are what was written; it is finished no more otherwise.

        Args:
            thorough: Read them all; otherwise their sizes have to do.
            aside: Move what is damaged aside.
        """
        try:
            for name, expected in self.summary().get("files", {}).items():
                verify(self.path / name, expected, thorough=thorough)
        except FileNotFoundError:
            return False
        except DamagedError as error:
            if aside:
                quarantined(error, _AGAIN)
                if self.done():  # it is not what is damaged
                    self.summary_path.replace(self.path / f"{SUMMARY}.before")
            return False
        return True

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Create the directory and hold it for this process.

        Raises:
            RunBusyError: If another process works on the same run.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with held(self._lock) as mine:
            if mine is None:
                raise RunBusyError(
                    f"another process is working on run {self.path.name}: {held_by(self._lock)}"
                )
            yield

    def busy(self) -> bool:
        """Whether a process is working on it."""
        return is_held(self._lock)

    def start_over(self, since: str | None = None) -> None:
        """Forget the chunks. What a finished run left stays until the new run is complete.

        Args:
            since: A launch's id: chunks that were begun by it or a later one stay too.
        """
        first = self.chunks.get(0)
        if since is None or first is None or first["launch"] < since:
            self.chunks.forget()

    def join(self, chunks: int, keep_edits_bytes: int, measurements: Iterable[str] = ()) -> None:
        """Make the final files of all chunks, which stay until `finish`.

        Args:
            chunks: How many.
            keep_edits_bytes: Edits are kept where all of them take no more.
            measurements: Names of what was measured.
        """
        from safetensors.numpy import save_file

        from kn_sweeps.edits import save_edits

        located, scores = self.chunks.located(chunks), self.chunks.attributions(chunks)
        # From here on an earlier result is being replaced; the chunks can make the new one.
        self.summary_path.unlink(missing_ok=True)
        write_json(self._located, located)
        if self.chunks.bytes_of_edits(chunks) <= keep_edits_bytes:
            edits = dict(self.chunks.all_edits(chunks))
            write_atomically(self._edits, lambda at: save_edits(at, edits))
        else:
            self._edits.unlink(missing_ok=True)
        write_atomically(self.attributions_path, lambda at: save_file(scores, at))
        for name in measurements:
            self._measurements.mkdir(exist_ok=True)
            write_frame(
                self._measurements / f"{name}.parquet", self.chunks.measurement(chunks, name)
            )
        write_atomically(self.rows_path, lambda at: join_rows(at, self.chunks.rows(chunks)))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mark the run as done."""
        results = [
            *(self.rows_path, self._located, self.attributions_path, self._edits),
            *(self._provenance, *sorted(self._measurements.glob("*.parquet"))),
        ]
        files = {str(p.relative_to(self.path)): checksum(p) for p in results if p.is_file()}
        write_sealed(self.summary_path, {**summary, "files": files})
        self.chunks.forget()

    def results(self) -> Results:
        """All that metrics are computed from.

        Raises:
            DamagedError: If it is not what was written, as all that reads a finished run.
        """
        from kn_sweeps.metrics.base import Results
        from kn_sweeps.metrics.verdicts import with_verdicts

        rows, verdicts = self.rows(), self.verdicts()
        if verdicts:
            rows = with_verdicts(rows, verdicts)
        return Results(rows, self.located(), self.attributions(), self.measurements())

    def verdicts(self) -> dict[str, float]:
        """What judges said of its answers (`metrics.verdicts`): 1 for right, 0 for wrong.

        Raises:
            DamagedError: If it is not what was written.
        """
        return read_sealed(self._verdicts) if self._verdicts.is_file() else {}

    def write_verdicts(self, verdicts: Mapping[str, float]) -> None:
        """Keep what judges said."""
        write_sealed(self._verdicts, verdicts)

    def rows(self, columns: Sequence[str] | None = None, filters: Any = None) -> pd.DataFrame:
        """All rows of a run whose chunks are joined, or some, as `row.read_rows` gives them."""
        return read_rows(self._verified(self.rows_path), columns, filters)

    def first_rows(self, rows: int, columns: Sequence[str]) -> pd.DataFrame:
        """Some columns of the first rows: not all are read, so none is checked."""
        return head_rows(self.rows_path, rows, columns)

    def measurements(self) -> dict[str, pd.DataFrame]:
        """What was measured beside the rows, by name."""
        import pandas as pd

        files = sorted(self._measurements.glob("*.parquet"))
        return {file.stem: pd.read_parquet(self._verified(file)) for file in files}

    def located(self) -> list[dict[str, Any]]:
        """What was located, an edit."""
        text = self._verified(self._located).read_text(encoding="utf-8")
        found: list[dict[str, Any]] = json.loads(text)
        return found

    def provenance(self) -> dict[str, Any]:
        """Where the numbers come from."""
        text = self._verified(self._provenance).read_text(encoding="utf-8")
        found: dict[str, Any] = json.loads(text)
        return found

    def write_provenance(self, provenance: Mapping[str, Any]) -> None:
        """Say where the numbers come from."""
        write_json(self._provenance, provenance)

    def edits(self) -> dict[str, Edit]:
        """The edits of a finished run, by id, in the order in which they were made.

        Raises:
            ValueError: If they were not kept.
        """
        if not self._edits.is_file():
            raise ValueError(
                f"run {self.path.name} did not keep its edits; raise keep_edits_gib and run it "
                "again with rerun=true"
            )
        from kn_sweeps.edits import load_edits

        return load_edits(self._verified(self._edits))

    def attributions(self) -> dict[str, NDArray[Any]]:
        """Neuron scores of every located prompt, by source."""
        from safetensors.numpy import load_file

        return load_file(self._verified(self.attributions_path))

    def _verified(self, path: Path) -> Path:
        """The path of a file that is read, once it is checked."""
        expected = self.summary().get("files", {}) if self.done() else {}
        name = str(path.relative_to(self.path))
        if name in expected:
            try:
                verify(path, expected[name])
            except DamagedError as error:
                if path.exists():  # said once, not by all that would read it
                    quarantined(error, _AGAIN)
                raise
        return path


def runs_in(sweep: Path) -> list[RunDirectory]:
    """The runs of a sweep, as far as they have begun."""
    return [RunDirectory(path.parent) for path in sorted(sweep.glob(f"*/{CONFIG}"))]


def runs_below(*folders: Path) -> list[RunDirectory]:
    """All runs below some folders, begun or done, each once, however it is reached."""
    found = {
        path.parent.resolve(): RunDirectory(path.parent)
        for folder in folders
        for path in sorted([*folder.rglob(CONFIG), *folder.rglob(SUMMARY)])
        if not _NOT_A_RUN & {*path.relative_to(folder).parts}
    }
    return list(found.values())
