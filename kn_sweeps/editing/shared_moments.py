"""Second moments from files that others made: those of this project, and ROME's published ones.

A file of this project is one of the cache (`kn-sweeps cache` says where): sealed safetensors with

    halves   (2, d_ff, d_ff), float64: sums of k k^T over every other text
    tokens   (2,), float64: how many keys each is of

and in its metadata, as JSON under `about`: the `model` and its `revision`, the `dtype` it ran in,
the `layer`, the `source` of the texts, how many `texts` were read and whether that is all
(`done`). Its checksum is under `sha256`.

ROME's are NumPy archives named after the module, such as
`transformer.h.17.mlp.c_proj_float32_mom2_100000.npz`, with the sum `mom2.mom2` and the number of
keys `mom2.count`. They do not say which model they are of.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.records.files import user_path
from kn_sweeps.records.integrity import load_tensors

log = logging.getLogger(__name__)

_LAYER = re.compile(r"(?<!\d)(\d+)\.(?!.*\d\.)")
"""In a module's name, the number of its block: the last number that is a part by itself."""


def shared_files(name: str) -> list[Path]:
    """The files of second moments that a text source's name stands for; none where it is texts.

    Args:
        name: A file, or a folder of such files, one for each layer.
    """
    path = user_path(name)
    every = sorted(path.iterdir()) if path.is_dir() else [path]
    if any(one.suffix == ".txt" for one in every):
        return []
    return [one for one in every if one.suffix in (".npz", ".safetensors") and one.is_file()]


def shared_sums(
    lm: LanguageModel, layer: int, files: list[Path]
) -> tuple[Float[Tensor, "halves d_ff d_ff"], Float[Tensor, " halves"]]:
    """A layer's sums and how many keys they are of, one half or two.

    Raises:
        ValueError: If no file is of that layer, or it is of another model, not finished or not
            what it should be.
    """
    of_layer = [one for one in files if _layer_of(one) == layer]
    if len(of_layer) != 1:
        there = ", ".join(f"{one.name} (layer {_layer_of(one)})" for one in files)
        raise ValueError(
            f"second_moment: {len(of_layer)} files are of layer {layer}, and one is needed; there "
            f"are {there}"
        )
    (path,) = of_layer
    halves, tokens = _published(path) if path.suffix == ".npz" else _own(lm, path)
    wide = lm.architecture.d_ff
    if halves.shape[1:] != (wide, wide):
        raise ValueError(
            f"{path} has sums of shape {tuple(halves.shape[1:])}; {lm.name} has {wide} neurons in "
            "a layer: it is of another model"
        )
    fits = torch.isfinite(halves).all() and torch.allclose(halves, halves.mT, rtol=1e-3)
    if not bool(fits) or not bool((tokens > 0).all()):
        raise ValueError(
            f"{path} is no second moment: it is not finite, symmetric and of some keys"
        )
    return halves, tokens


def _layer_of(path: Path) -> int | None:
    if path.suffix == ".npz":
        found = _LAYER.search(path.name.split("_float")[0].removesuffix(".npz") + ".")
        return int(found[1]) if found else None
    layer = load_tensors(path)[1].get("layer")
    return None if layer is None else int(layer)


def _published(path: Path) -> tuple[Tensor, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = {name.rpartition(".")[2]: name for name in archive.files}
            total = np.asarray(archive[names["mom2"]], np.float64)
            count = float(archive[names["count"]])
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is no archive of ROME's statistics, with mom2.mom2 and mom2.count: {error}"
        ) from error
    log.warning("%s does not say which model it is of; only its shape is checked", path)
    return torch.from_numpy(total)[None], torch.tensor([count], dtype=torch.float64)


def _own(lm: LanguageModel, path: Path) -> tuple[Tensor, Tensor]:
    tensors, about = load_tensors(path)
    expected: dict[str, Any] = {"revision": lm.revision, "dtype": str(lm.model.dtype), "done": True}
    for name, value in expected.items():
        if about.get(name) != value:
            raise ValueError(f"{path}: its {name} is {about.get(name)!r}, expected {value!r}")
    return tensors["halves"], tensors["tokens"]
