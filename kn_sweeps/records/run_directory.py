"""The run directory: rows as they come, one marker when done, nothing half-written.

    results/<sweep>/<run id>/
        config.yaml  provenance.json  run.log  status.json
        parts/       finished chunks of cases, while the run is under way
        rows.parquet  neurons.json  attributions.safetensors  edits.safetensors  contexts.json
        measurements/  one parquet file a measurement
        summary.json  written last: it marks the run as done

Every file appears by rename, so it is whole or absent. A chunk is finished once its JSON is there,
which is written last and holds the checksums of its other files, as summary.json holds those of
the run's. What is damaged is noticed when it is read, moved aside and computed again
(`integrity`).
"""

from __future__ import annotations

import json
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

from kn_sweeps.records.files import finite, held, held_by, is_held, write_atomically, write_json
from kn_sweeps.records.integrity import (
    DamagedError,
    checksum,
    quarantined,
    read_sealed,
    unless_damaged,
    verify,
    write_sealed,
)
from kn_sweeps.records.status import kept

# Reading results takes no model library: what writes or reads edits imports it.
if TYPE_CHECKING:
    from kn_sweeps.edits import Edit
    from kn_sweeps.plans import Plan

Record = dict[str, Any]

_AGAIN = "the command that made the run computes it again"
_PARTS = (".edits", ".safetensors", ".measured", ".parquet")
_RESULTS = (
    *("rows.parquet", "neurons.json", "contexts.json", "attributions.safetensors"),
    *("edits.safetensors", "provenance.json"),
)


class RunBusyError(ValueError):
    """Another process is working on the run."""


class RunDirectory:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        """Name the directory; it is created by `opened`."""
        self.path = path
        self._chunks: dict[int, Record] = {}
        self._parts = path / "parts"
        self._edits = path / "edits.safetensors"
        self._measurements = path / "measurements"

    @property
    def summary_path(self) -> Path:
        """The file that marks the run as done."""
        return self.path / "summary.json"

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
                    self.summary_path.replace(self.path / "summary.json.before")
            return False
        return True

    def begun(self) -> bool:
        """Whether it has chunks to go on from."""
        return next(self._parts.glob("*.json"), None) is not None

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
                    f"another process is working on run {self.path.name}: "
                    f"{held_by(self.path / '.lock')}"
                )
            yield

    def busy(self) -> bool:
        """Whether a process is working on it."""
        return is_held(self.path / ".lock")

    def forget_chunks(self, since: str | None = None) -> None:
        """Start over. What a finished run left stays until the new run is complete.

        Args:
            since: A launch's id: chunks that were begun by it or a later one stay too.
        """
        first = self.chunk(0)
        if since is None or first is None or first["launch"] < since:
            shutil.rmtree(self._parts, ignore_errors=True)
            self._chunks.clear()

    def chunk(self, number: int) -> Record | None:
        """What is known of a finished chunk of cases; None where it is to be computed.

        One that is damaged is moved aside.

        Returns:
            `start` and `cases`, which cases it holds; `seconds`, which they took; `launch` and
            `code`, by which it was computed; `located` and `contexts`.
        """
        if number not in self._chunks:
            marker = self._part(number, "json")
            try:
                found = read_sealed(marker)
                for name, expected in found["files"].items():
                    verify(self._parts / name, expected)
            except (FileNotFoundError, KeyError):  # none, or of a version without checksums
                return None
            except DamagedError as error:
                quarantined(error, "its cases are computed again")
                marker.unlink(missing_ok=True)
                return None
            self._chunks[number] = found
        return self._chunks[number]

    def chunks(self) -> list[Record]:
        """What is known of every finished chunk, in their order."""
        numbers = sorted(int(path.stem) for path in self._parts.glob("*.json"))
        return [one for one in map(self.chunk, numbers) if one is not None]

    def forget_from(self, number: int) -> None:
        """Forget a chunk and all behind it."""
        for path in self._parts.glob("*.json"):
            if int(path.stem) >= number:
                path.unlink()
                self._chunks.pop(int(path.stem), None)

    def add_chunk(
        self,
        chunk: int,
        rows: Sequence[Record],
        plan: Plan,
        measured: Mapping[str, Sequence[Record]] | None = None,
        **about: Any,
    ) -> None:
        """Save a finished chunk.

        Args:
            chunk: Its number.
            rows: Its rows.
            plan: Its edits, and what belongs to them.
            measured: What was measured beside the rows, by name.
            about: What else `chunk` is to say of it.
        """
        from kn_sweeps.edits import save_edits

        self._parts.mkdir(exist_ok=True)
        write_atomically(self._part(chunk, "edits"), lambda p: save_edits(p, plan.edits))
        scores = {source: rows.cpu().numpy() for source, rows in plan.attributions.items()}
        write_atomically(self._part(chunk, "safetensors"), lambda p: save_file(scores, p))
        for name, records in (measured or {}).items():
            _write_frame(self._part(chunk, f"{name}.measured"), pd.DataFrame(list(records)))
        _write_frame(self._part(chunk, "parquet"), pd.DataFrame.from_records(list(rows)))
        files = [p for p in self._parts.glob(f"{chunk:06d}.*") if p.suffix in _PARTS]
        record = {
            **about,
            "located": [asdict(found) for found in plan.located],
            "contexts": plan.contexts,
            "files": {path.name: checksum(path) for path in files},
        }
        write_sealed(self._part(chunk, "json"), record)
        kept()
        self._chunks[chunk] = finite(record)

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
        about = [read_sealed(self._part(i, "json")) for i in range(chunks)]
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
        names = [name for name in _RESULTS if (self.path / name).is_file()]
        names += [
            str(p.relative_to(self.path)) for p in sorted(self._measurements.glob("*.parquet"))
        ]
        files = {name: checksum(self.path / name) for name in names}
        write_sealed(self.summary_path, {**summary, "files": files})
        shutil.rmtree(self._parts, ignore_errors=True)

    def rows(self) -> pd.DataFrame:
        """All rows of a run whose chunks are joined.

        Raises:
            DamagedError: If they are not what was written, as all that reads a finished run.
        """
        return pd.read_parquet(self._verified("rows.parquet"))

    def measurements(self) -> dict[str, pd.DataFrame]:
        """What was measured beside the rows, by name."""
        files = sorted(self._measurements.glob("*.parquet"))
        return {
            file.stem: pd.read_parquet(self._verified(f"measurements/{file.name}"))
            for file in files
        }

    def located(self) -> list[Record]:
        """What was located, an edit."""
        text = self._verified("neurons.json").read_text(encoding="utf-8")
        found: list[Record] = json.loads(text)
        return found

    def _verified(self, name: str) -> Path:
        """The path of a file that is read, once it is checked."""
        path = self.path / name
        expected = self.summary().get("files", {}) if self.summary_path.is_file() else {}
        if name in expected:
            try:
                verify(path, expected[name])
            except DamagedError as error:
                quarantined(error, _AGAIN)
                raise
        return path

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

        return load_edits(self._verified(self._edits.name))

    def attributions(self) -> dict[str, NDArray[Any]]:
        """Neuron scores of every located prompt, by source."""
        return load_file(self._verified("attributions.safetensors"))

    def _part(self, chunk: int, suffix: str) -> Path:
        return self._parts / f"{chunk:06d}.{suffix}"


def _write_frame(path: Path, frame: pd.DataFrame) -> None:
    write_atomically(path, lambda at: frame.to_parquet(at, index=False))
