"""Small checkpoints on disk, to be damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from kn_sweeps.models.pretrained import Pretrained

TINY = Path(__file__).parents[2] / "kn_sweeps" / "tiny" / "weights"
WEIGHTS = "model.safetensors"


def folder(at: Path, name: str = "tiny_gpt2") -> Path:
    """A copy of a model that ships."""
    shutil.copytree(TINY / name, at)
    return at


def model(at: Path, **more: Any) -> Pretrained:
    return Pretrained(label="mine", name=str(at), **more)


def weights(at: Path) -> dict[str, Tensor]:
    return load_file(at / WEIGHTS)


def write(at: Path, tensors: dict[str, Tensor]) -> None:
    save_file({k: v.contiguous() for k, v in tensors.items()}, at / WEIGHTS, {"format": "pt"})


def configure(at: Path, **changes: Any) -> None:
    config = json.loads((at / "config.json").read_text()) | changes
    (at / "config.json").write_text(json.dumps(config))
