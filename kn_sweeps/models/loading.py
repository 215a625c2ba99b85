"""What a model is to a config: something that names its weights, fetches them and loads them.

Each subclass (`pretrained`, `gguf`) is one kind of `model` config: it says where a checkpoint's
folder is (`checkpoints` reads it) and which weights it names. No code of a checkpoint is ever
run, and of pickled weights nothing but tensors is read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from kn_sweeps.models import checkpoints
from kn_sweeps.models.checkpoints import Described, DType
from kn_sweeps.models.quantized import Quantization, check_quantization

# Naming and finding a checkpoint takes no model library: what loads one imports it.
if TYPE_CHECKING:
    import torch

    from kn_sweeps.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Model(ABC):
    """A model that can be loaded.

    Attributes:
        label: What tables call it.
        device_map: Where its parts go: `auto` and the like, or by module's path, as transformers
            has it; null for all of it on one device. Parts on `cpu` beside GPUs, and on `disk`, are
            fetched for each use.
        quantization: `8bit` or `4bit` to keep its weights so (`quantized`); null as they are.
        layers: Number of its blocks, which sweeps over layers run through; null for unknown.
        start_token: What every prompt starts with, where its tokenizer adds nothing; null for
            the tokenizer's own way.
        chat: Whether prompts are asked through its tokenizer's chat template, as a user's message.
        context_openings: Words that sampled contexts begin with, where it writes no sentence
            behind its start token; methods that sample contexts take them by default.
        untuned: Methods whose values for it nobody published or chose by trial.
    """

    label: str
    start_token: str | None = None
    chat: bool = False
    context_openings: tuple[str, ...] = ()
    untuned: tuple[str, ...] = ()
    layers: int | None = None
    device_map: str | dict[str, str | int] | None = None
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be loaded here."""
        check_quantization(self.quantization)
        if self.quantization is not None and self.device_map is not None:
            raise ValueError("a quantised model is on one device; use model.device_map=null")

    @property
    def shown(self) -> str:
        """What tables call it where others of its weights may stand beside it."""
        return self.label if self.quantization is None else f"{self.label}-{self.quantization}"

    def pinned(self) -> Self:
        """The same model, named so that it cannot become another one while a run waits.

        Raises:
            ValueError: If it cannot be found.
        """
        return self

    def fingerprint(self) -> str:
        """Which weights and tokenizer these are, told without loading them.

        Raises:
            ValueError: If it cannot be found, or is not whole.
        """
        content = self._content()
        return content if self.quantization is None else f"{content}-{self.quantization}"

    @abstractmethod
    def _content(self) -> str:
        """Which files these are; raises ValueError as `fingerprint`."""

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

    def check(self) -> None:
        """Fetch it, and refuse what loading would refuse, short of the weights' numbers.

        Raises:
            ValueError: If it cannot be had, or would not load.
        """
        folder = self.fetch()
        with self._named():
            checkpoints.check(folder)

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
        """Load it in `dtype`, and check that it is what everything relies on.

        Args:
            device: Where to, unless `device_map` says where its parts go.
            dtype: Of its weights.

        Raises:
            ValueError: If it cannot be found or read, is not whole, or breaks a law (`laws`).
        """
        from kn_sweeps.models.language_model import LanguageModel

        folder, revision = self.fetch(), self.fingerprint()
        with self._named():
            model, tokenizer = checkpoints.read(
                folder, device, dtype, self.device_map, self.quantization
            )
        if self.fingerprint() != revision:
            raise ValueError(f"model {self.label}: {folder} changed while it was read; try again")
        lm = LanguageModel(
            model,
            tokenizer,
            name=self.label,
            revision=revision,
            start_token=self.start_token,
            chat=self.chat,
        )
        self._check_layers(lm.architecture.layers)
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
                f"model.layers={found}, and the layers that the method names"
            )


def load_model(model: Model, device: torch.device, dtype: DType) -> LanguageModel:
    """Load a model."""
    return model.load(device, dtype)


def device(name: str) -> torch.device:
    """The device of a config.

    Raises:
        ValueError: If CUDA is asked for and absent.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but no CUDA device is available; use device=cpu or auto")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
