"""A checkpoint's folder: what of it is read, which model that is, and reading it.

Files are read from a folder of links to exactly those that are hashed, so that two folders are one
model if, and only if, all that can matter is equal. Code, pickled weights and adapters that lie
beside them are not even seen.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kn_sweeps.cases import LMKind
from kn_sweeps.models.devices import is_dispatched, keep_files, weights
from kn_sweeps.models.families import FAMILIES
from kn_sweeps.models.probing import check_known, kind_of
from kn_sweeps.models.quantized import Quantization, quantize
from kn_sweeps.records.hashing import digests

# Naming, finding and hashing a checkpoint takes no model library: what loads one imports it.
if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONFIG = "config.json"
_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model", "*.tiktoken")
_TOKENIZER = (
    *_VOCABULARIES,
    *("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.json", "chat_template.jinja"),
)
SMALL = (CONFIG, f"{_SAFE}.index.json", f"{_PICKLED}.index.json", *_TOKENIZER)
"""What of a hub's repository is read besides the weights; no code, and nothing in subfolders."""
_WRAPPERS = ("_orig_mod.", "module.")
"""What torch.compile and DataParallel put before every name."""
_SHOWN = 5

log = logging.getLogger(__name__)

DType = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Described:
    """What a checkpoint's config tells.

    Attributes:
        kind: How the family reads a query.
        layers: Number of its blocks.
    """

    kind: LMKind
    layers: int


def files(folder: Path) -> list[Path]:
    """What of a checkpoint's folder is read: config, weights and tokenizer, sorted by name.

    Raises:
        ValueError: If one of them is not there.
    """
    if not (folder / CONFIG).is_file():
        raise ValueError(f"it has no {CONFIG}")
    vocabularies = _matching(folder, _VOCABULARIES)
    if not vocabularies:
        raise ValueError(
            "it has no tokenizer: none of "
            f"{', '.join(_VOCABULARIES)} is there. Copy the tokenizer's files into it, or save "
            "them there with tokenizer.save_pretrained"
        )
    found = {folder / CONFIG, *_weights(folder), *_matching(folder, _TOKENIZER)}
    return sorted(found)


def identity(folder: Path) -> str:
    """Sixteen hex digits of the content of all that is read, whatever the folder is called.

    Raises:
        ValueError: If it is no checkpoint, or changes while it is read.
    """
    read = files(folder)
    names = [path.name for path in read]
    about = json.dumps(list(zip(names, digests(read), strict=True)))
    return hashlib.sha256(about.encode()).hexdigest()[:16]


def describe(config: Path) -> Described:
    """What a config.json tells.

    Raises:
        ValueError: If its family is not known, or it is no config.
    """
    name, told = _model_type(config), _json(config)
    kind = kind_of(told)
    check_known(config)
    layers = told.get(FAMILIES[name].layers if name in FAMILIES else "num_hidden_layers")
    if type(layers) is not int or layers < 1:
        layers = _by_default(config)
    return Described(kind, layers)


def _by_default(config: Path) -> int:
    """The number of blocks that transformers gives a config which does not say it."""
    from transformers import AutoConfig  # takes seconds to import, and few configs are silent

    try:
        told = AutoConfig.from_pretrained(config, trust_remote_code=False)
        return int(told.num_hidden_layers)
    except Exception as error:  # whatever a broken config makes two libraries raise
        raise ValueError(f"{CONFIG} cannot be read: {type(error).__name__}: {error}") from error


def read(
    folder: Path,
    device: torch.device,
    dtype: DType,
    device_map: str | dict[str, str | int] | None = None,
    quantization: Quantization | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read model and tokenizer.

    Args:
        folder: Where they are.
        device: Where the model goes.
        dtype: Of its weights.
        device_map: Where its parts go instead; see `Model`.
        quantization: How its weights are kept; see `Model`.

    Raises:
        ValueError: If the family is not known, weights are missing, do not fit or are not finite,
            or a library cannot make sense of a file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    _model_type(folder / CONFIG)
    masked = kind_of(_json(folder / CONFIG)) == "masked"
    auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    check_known(folder / CONFIG)
    if pickled := is_pickled(folder):
        log.warning(
            "the weights are a pickle (%s), of which only tensors are read; safetensors load "
            "faster: save the model with save_pretrained",
            _PICKLED,
        )
    with _linked(files(folder)) as links, _quiet():
        try:
            loaded: Any = auto.from_pretrained(
                links,
                dtype=getattr(torch, dtype),
                # Straight to where it is wanted, a shard at a time.
                device_map=device_map or {"": "cpu" if quantization else device},
                use_safetensors=not pickled,
                weights_only=True,  # of a pickle nothing but tensors
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused by name, as missing ones are
                key_mapping=_renamed(folder),
            )
            keep_files(loaded[0])
            tokenizer = AutoTokenizer.from_pretrained(links, trust_remote_code=False)
        except Exception as error:  # whatever a broken checkpoint makes three libraries raise
            text = (str(error).strip() or "?").replace(str(links), str(folder))
            raise ValueError(f"{type(error).__name__}: {text.splitlines()[0]}") from error
    model, report = loaded
    model.config.name_or_path = tokenizer.name_or_path = ""
    _check_complete(report)
    _check_finite(model, dtype)
    if quantization is not None:
        quantize(model, quantization, device)
    return model, tokenizer


def check(folder: Path) -> None:
    """Refuse what `read` would refuse, short of numbers: no weight is read into memory.

    Raises:
        ValueError: As `read`.
    """
    import torch

    read(folder, torch.device("meta"), "float32")


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]


def weight_files(folder: Path) -> Iterator[list[str]]:
    """The files that could hold the weights, a way a time; the first that is there is read.

    Raises:
        ValueError: If an index cannot be read, or names files outside the folder.
    """
    for name in (_SAFE, _PICKLED):
        yield [name]
        index = f"{name}.index.json"
        if (folder / index).is_file():
            shards = sorted(set(_json(folder / index).get("weight_map", {}).values()))
            outside = [shard for shard in shards if Path(shard).name != shard]
            if outside:
                raise ValueError(f"{index} names files outside the folder: {_some(outside)}")
            yield [index, *shards]


def _weights(folder: Path) -> list[Path]:
    """The file with the weights, or the index and the files that it names."""
    lacking = ""
    for names in weight_files(folder):
        missing = [name for name in names if not (folder / name).is_file()]
        if not missing and not names[-1].endswith(".json"):
            return [folder / name for name in names]
        if names[0] not in missing:
            lacking = lacking or f"{names[0]} names files that are not there: {_some(missing)}"
    raise ValueError(
        lacking
        or f"it has no {_SAFE}, no {_SAFE}.index.json and no {_PICKLED}; weights in other formats "
        "are not read: save the model with save_pretrained"
    )


def is_pickled(folder: Path) -> bool:
    """Whether its weights are not safetensors, but a pickle, of which only tensors are read."""
    return _weights(folder)[-1].suffix == ".bin"


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is not a mapping")
    return found


def _model_type(config: Path) -> str:
    found = _json(config)
    # transformers would guess it from the folder's name.
    if not isinstance(found.get("model_type"), str):
        raise ValueError(f"{CONFIG} does not say which family it is: it has no model_type")
    if "/" in str(found.get("attn_implementation")):
        raise ValueError(f"{CONFIG} names code of a hub as attn_implementation; remove that line")
    if (quantised := found.get("quantization_config")) is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise ValueError(
            f"{CONFIG} says that its weights are quantised ({method or quantised}), which is not "
            "read: load the checkpoint that was quantised with model.quantization=8bit or 4bit, or "
            "dequantise this one: from_pretrained(...).dequantize().save_pretrained(DIR)"
        )
    return str(found["model_type"])


@contextmanager
def _linked(paths: Sequence[Path]) -> Iterator[Path]:
    """A folder with links to some files and nothing else."""
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as name:
        for path in paths:
            (Path(name) / path.name).symlink_to(path.resolve())
        yield Path(name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own report of what it loaded: ours names what matters."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _renamed(folder: Path) -> dict[str, str] | None:
    """How weights are renamed that a wrapper put a prefix to: all of them, or none."""
    import torch
    from safetensors import safe_open

    names: list[str] = []
    for path in _weights(folder):
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                names += file.keys()
        elif path.suffix == ".bin":
            names += torch.load(path, map_location="meta", weights_only=True)
    prefix = ""
    while names and (own := [w for w in _WRAPPERS if all(n.startswith(prefix + w) for n in names)]):
        prefix += own[0]
    if not prefix:
        return None
    log.warning("the weights' names begin with %r, which is left out", prefix)
    return {f"^{re.escape(prefix)}": ""}


def _check_complete(report: dict[str, Any]) -> None:
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing:
        others = f". It has others that the model has not: {_some(unexpected)}" * bool(unexpected)
        raise ValueError(
            f"it lacks weights, which would be random numbers: {_some(missing)}{others}"
        )
    if mismatched := sorted(
        f"{name} {tuple(found)} for {tuple(wanted)}"
        for name, found, wanted in report["mismatched_keys"]
    ):
        raise ValueError(f"its weights do not have the shapes of its config: {_some(mismatched)}")
    if unexpected:
        log.warning("weights that the model does not have are ignored: %s", _some(unexpected))


def _check_finite(model: PreTrainedModel, dtype: DType) -> None:
    """Least and largest of each tensor: one pass over the weights, and no copy of them."""
    import torch

    if model.device.type == "meta" and not is_dispatched(model):
        return

    wrong = [
        name
        for name, parameter in weights(model)
        if parameter.numel()
        and not all(bool(torch.isfinite(x)) for x in torch.aminmax(parameter.detach()))
    ]
    if wrong:
        hint = "; they may be too large for float16: try dtype=float32" * (dtype == "float16")
        raise ValueError(f"it has weights that are NaN or infinite: {_some(wrong)}{hint}")


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
