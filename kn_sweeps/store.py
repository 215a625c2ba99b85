"""The run directory: rows as they come, one marker when done, nothing half-written.

    results/<sweep>/<run id>/
        config.yaml  provenance.json  run.log  status.json
        parts/       finished chunks of cases, while the run is under way
        rows.parquet  neurons.json  attributions.safetensors  edits.safetensors  contexts.json
        measurements/  one parquet file a measurement
        summary.json  written last: it marks the run as done

Every file appears by rename, so it is whole or absent. A chunk's rows are written after what
belongs to them: a chunk with rows is finished.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from kn_sweeps.files import held, is_held, write_atomically, write_json

# Reading results takes no model library: what writes or reads edits imports it.
if TYPE_CHECKING:
    from kn_sweeps.edits import Edit
    from kn_sweeps.methods.base import Plan

Record = dict[str, Any]


class RunBusyError(ValueError):
    """Another process is working on the run."""


class RunDirectory:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        """Name the directory; it is created by `opened`."""
        self.path = path
        self._parts = path / "parts"
        self._edits = path / "edits.safetensors"
        self._measurements = path / "measurements"

    @property
    def summary_path(self) -> Path:
        """The file that marks the run as done."""
        return self.path / "summary.json"

    def done(self, since: float = 0.0) -> bool:
        """Whether the run is finished, and was not before `since` (seconds since 1970)."""
        path = self.summary_path
        return path.is_file() and path.stat().st_mtime >= since

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Create the directory and hold it for this process.

        Raises:
            RunBusyError: If another process works on the same run.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with held(self.path / ".lock") as mine:
            if mine is None:
                raise RunBusyError(
                    f"another process is working on run {self.path.name} ({self.path})"
                )
            yield

    def busy(self) -> bool:
        """Whether a process is working on it."""
        return is_held(self.path / ".lock")

    def forget_chunks(self, before: float = math.inf) -> None:
        """Start over. What a finished run left stays until the new run is complete.

        Args:
            before: Chunks that are younger (seconds since 1970) stay too.
        """
        first = self._part(0, "parquet")
        if not first.is_file() or first.stat().st_mtime < before:
            shutil.rmtree(self._parts, ignore_errors=True)

    def has_chunk(self, chunk: int) -> bool:
        """Whether a chunk of cases is finished."""
        return self._part(chunk, "parquet").is_file()

    def add_chunk(
        self,
        chunk: int,
        rows: Sequence[Record],
        plan: Plan,
        measured: Mapping[str, Sequence[Record]] | None = None,
    ) -> None:
        """Save a finished chunk."""
        from kn_sweeps.edits import save_edits

        self._parts.mkdir(exist_ok=True)
        about = {
            "located": [asdict(found) for found in plan.located],
            "contexts": plan.contexts,
        }
        write_json(self._part(chunk, "json"), about)
        write_atomically(self._part(chunk, "edits"), lambda p: save_edits(p, plan.edits))
        scores = {source: rows.cpu().numpy() for source, rows in plan.attributions.items()}
        write_atomically(self._part(chunk, "safetensors"), lambda p: save_file(scores, p))
        for name, records in (measured or {}).items():
            _write_frame(self._part(chunk, f"{name}.measured"), pd.DataFrame(list(records)))
        _write_frame(self._part(chunk, "parquet"), pd.DataFrame.from_records(list(rows)))

    def failed(self, chunks: int) -> dict[str, str]:
        """By case, why it could not be edited."""
        found: dict[str, str] = {}
        for i in range(chunks):
            columns = ["case", "kind", "failure"]
            rows = pd.read_parquet(self._part(i, "parquet"), columns=columns)
            rows = rows[rows["kind"] == "failed"]
            found |= dict(zip(rows["case"], rows["failure"], strict=True))
        return found

    def join_chunks(
        self, chunks: int, keep_edits_bytes: int, measurements: Iterable[str] = ()
    ) -> None:
        """Make the final files of all chunks; the parts stay until `finish`.

        Args:
            chunks: How many.
            measurements: Names of what was measured.
            keep_edits_bytes: Edits are kept where all of them take no more.
        """
        from kn_sweeps.edits import load_edits, save_edits

        frames = [pd.read_parquet(self._part(i, "parquet")) for i in range(chunks)]
        rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
        about = [
            json.loads(self._part(i, "json").read_text(encoding="utf-8")) for i in range(chunks)
        ]
        located = [found for one in about for found in one["located"]]
        contexts: list[str] = next((one["contexts"] for one in about if one["contexts"]), [])
        scores: dict[str, list[NDArray[Any]]] = {}
        for i in range(chunks):
            for source, rows_of in load_file(self._part(i, "safetensors")).items():
                scores.setdefault(source, []).append(rows_of)
        joined = {source: np.concatenate(parts) for source, parts in scores.items()}
        # From here on an earlier result is being replaced; the chunks can make the new one.
        self.summary_path.unlink(missing_ok=True)
        write_json(self.path / "neurons.json", located)
        write_json(self.path / "contexts.json", contexts)
        parts = [self._part(i, "edits") for i in range(chunks)]
        if sum(part.stat().st_size for part in parts) <= keep_edits_bytes:
            edits = {name: edit for part in parts for name, edit in load_edits(part).items()}
            write_atomically(self._edits, lambda path: save_edits(path, edits))
        else:
            self._edits.unlink(missing_ok=True)
        write_atomically(
            self.path / "attributions.safetensors", lambda path: save_file(joined, path)
        )
        for name in measurements:
            parts = [self._part(i, f"{name}.measured") for i in range(chunks)]
            frames = [pd.read_parquet(part) for part in parts if part.is_file()]
            self._measurements.mkdir(exist_ok=True)
            _write_frame(
                self._measurements / f"{name}.parquet", pd.concat(frames, ignore_index=True)
            )
        _write_frame(self.path / "rows.parquet", rows)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mark the run as done."""
        write_json(self.summary_path, summary)
        shutil.rmtree(self._parts, ignore_errors=True)

    def rows(self) -> pd.DataFrame:
        """All rows of a run whose chunks are joined."""
        return pd.read_parquet(self.path / "rows.parquet")

    def measurements(self) -> dict[str, pd.DataFrame]:
        """What was measured beside the rows, by name."""
        files = sorted(self._measurements.glob("*.parquet"))
        return {file.stem: pd.read_parquet(file) for file in files}

    def located(self) -> list[Record]:
        """What was located, an edit."""
        found: list[Record] = json.loads((self.path / "neurons.json").read_text(encoding="utf-8"))
        return found

    def chunk_edits(self, chunk: int) -> dict[str, Edit]:
        """The edits of a finished chunk."""
        from kn_sweeps.edits import load_edits

        return load_edits(self._part(chunk, "edits"))

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

        return load_edits(self._edits)

    def attributions(self) -> dict[str, NDArray[Any]]:
        """Neuron scores of every located prompt, by source."""
        return load_file(self.path / "attributions.safetensors")

    def _part(self, chunk: int, suffix: str) -> Path:
        return self._parts / f"{chunk:06d}.{suffix}"


def _write_frame(path: Path, frame: pd.DataFrame) -> None:
    write_atomically(path, lambda at: frame.to_parquet(at, index=False))
