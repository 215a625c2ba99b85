"""The chunks of a run that is under way: what it goes on from after a stop.

    parts/000000.parquet       rows of some cases
    parts/000000.edits         their edits
    parts/000000.state         what their plan leaves to later ones of a sequence, if anything
    parts/000000.safetensors   neuron scores of their located prompts
    parts/000000.NAME.measured a measurement's findings
    parts/000000.json          written last: what is known of the chunk, and its files' checksums

What is damaged is moved aside, and its cases are computed again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kn_sweeps.progress.saving import kept
from kn_sweeps.records.files import finite, write_atomically
from kn_sweeps.records.integrity import (
    DamagedError,
    checksum,
    quarantined,
    read_sealed,
    verify,
    write_sealed,
)
from kn_sweeps.row import Row, read_rows, write_rows

# Whether a run has chunks is asked by what loads neither tables nor models.
if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from kn_sweeps.edits import Edit, State
    from kn_sweeps.plans import Plan

_FILES = (".edits", ".state", ".safetensors", ".measured", ".parquet")


class Chunks:
    """The finished chunks of a run, by number from 0."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; it is created by `add`."""
        self._folder = folder
        self._known: dict[int, dict[str, Any]] = {}

    def any(self) -> bool:
        """Whether there are chunks to go on from."""
        return next(self._folder.glob("*.json"), None) is not None

    def get(self, number: int) -> dict[str, Any] | None:
        """What is known of a finished chunk of cases; None where it is to be computed.

        One that is damaged is moved aside.

        Returns:
            `start` and `cases`, which cases it holds; `seconds`, which they took; `launch` and
            `code`, by which it was computed; and what was `located`.
        """
        if number not in self._known:
            marker = self._part(number, "json")
            try:
                found = read_sealed(marker)
                for name, expected in found["files"].items():
                    verify(self._folder / name, expected)
            except FileNotFoundError:
                return None
            except DamagedError as error:
                quarantined(error, "its cases are computed again")
                marker.unlink(missing_ok=True)
                return None
            self._known[number] = found
        return self._known[number]

    def every(self) -> list[dict[str, Any]]:
        """What is known of every finished chunk, in their order."""
        numbers = sorted(int(path.stem) for path in self._folder.glob("*.json"))
        return [one for one in map(self.get, numbers) if one is not None]

    def forget(self) -> None:
        """Remove all."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._known.clear()

    def forget_from(self, number: int) -> None:
        """Forget a chunk and all behind it."""
        for path in self._folder.glob("*.json"):
            if int(path.stem) >= number:
                path.unlink()
                self._known.pop(int(path.stem), None)

    def add(
        self,
        number: int,
        rows: Sequence[Row],
        plan: Plan,
        measured: Mapping[str, Sequence[Mapping[str, Any]]],
        **about: Any,
    ) -> None:
        """Save a finished chunk.

        Args:
            number: Its number.
            rows: Its rows.
            plan: Its edits, and what belongs to them.
            measured: What was measured beside the rows, by name.
            about: What else `get` is to say of it.
        """
        import pandas as pd
        from safetensors.numpy import save_file

        from kn_sweeps.edits import save_edits, save_states

        self._folder.mkdir(exist_ok=True)
        write_atomically(self._part(number, "edits"), lambda at: save_edits(at, plan.edits))
        if plan.state:
            write_atomically(self._part(number, "state"), lambda at: save_states(at, plan.state))
        scores = {source: one.cpu().numpy() for source, one in plan.attributions.items()}
        write_atomically(self._part(number, "safetensors"), lambda at: save_file(scores, at))
        for name, findings in measured.items():
            write_frame(self._part(number, f"{name}.measured"), pd.DataFrame(list(findings)))
        write_atomically(self._part(number, "parquet"), lambda at: write_rows(at, rows))
        files = [p for p in self._folder.glob(f"{number:06d}.*") if p.suffix in _FILES]
        record = {
            **about,
            "located": [asdict(found) for found in plan.located],
            "files": {path.name: checksum(path) for path in files},
        }
        write_sealed(self._part(number, "json"), record)
        kept()
        self._known[number] = finite(record)

    def rows(self, chunks: int) -> list[Path]:
        """The files of the first chunks' rows."""
        return [self._part(number, "parquet") for number in range(chunks)]

    def failed(self, chunks: int) -> dict[str, str]:
        """By case of the first chunks, why it could not be edited.

        One that could, and only cannot be asked with all edits in effect, is none of them.
        """
        found: dict[str, str] = {}
        for path in self.rows(chunks):
            rows = read_rows(path, columns=["case", "kind", "failure", "after"])
            rows = rows[(rows["kind"] == "failed") & (rows["after"] == "edit")]
            found |= dict(zip(rows["case"], rows["failure"], strict=True))
        return found

    def located(self, chunks: int) -> list[dict[str, Any]]:
        """What the first chunks located."""
        about = [read_sealed(self._part(number, "json")) for number in range(chunks)]
        return [found for one in about for found in one["located"]]

    def attributions(self, chunks: int) -> dict[str, NDArray[Any]]:
        """Neuron scores of the first chunks' located prompts, by source."""
        import numpy as np
        from safetensors.numpy import load_file

        scores: dict[str, list[NDArray[Any]]] = {}
        for number in range(chunks):
            for source, one in load_file(self._part(number, "safetensors")).items():
                scores.setdefault(source, []).append(one)
        return {source: np.concatenate(parts) for source, parts in scores.items()}

    def measurement(self, chunks: int, name: str) -> pd.DataFrame:
        """What the first chunks measured under a name."""
        import pandas as pd

        parts = [self._part(number, f"{name}.measured") for number in range(chunks)]
        frames = [pd.read_parquet(part) for part in parts if part.is_file()]
        return pd.concat(frames, ignore_index=True)

    def edits(self, number: int) -> dict[str, Edit]:
        """The edits of a chunk, by id, in the order in which they were made."""
        from kn_sweeps.edits import load_edits

        return load_edits(self._part(number, "edits"))

    def states(self, number: int) -> list[State]:
        """What a chunk's plan left to later ones, in this order."""
        from kn_sweeps.edits import load_states

        path = self._part(number, "state")
        return load_states(path) if path.is_file() else []

    def all_edits(self, chunks: int) -> Iterator[tuple[str, Edit]]:
        """Those of the first chunks."""
        for number in range(chunks):
            yield from self.edits(number).items()

    def bytes_of_edits(self, chunks: int) -> int:
        """How much they take on disk."""
        return sum(self._part(number, "edits").stat().st_size for number in range(chunks))

    def _part(self, number: int, suffix: str) -> Path:
        return self._folder / f"{number:06d}.{suffix}"


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a table to a parquet file atomically."""
    write_atomically(path, lambda at: frame.to_parquet(at, index=False))
