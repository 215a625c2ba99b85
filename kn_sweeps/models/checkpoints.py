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
from kn_sweeps.models.families import family_of
from kn_sweeps.records.hashing import digests

# Naming, finding and hashing a checkpoint takes no model library: what loads one imports it.
if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NEEDED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""What of a hub's repository is downloaded: no code, and no weights in other formats."""

_CONFIG = "config.json"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model", "*.tiktoken")
_TOKENIZER = (
    *_VOCABULARIES,
    *("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.json", "chat_template.jinja"),
)
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
    if not (folder / _CONFIG).is_file():
        raise ValueError(f"it has no {_CONFIG}")
    vocabularies = _matching(folder, _VOCABULARIES)
    if not vocabularies:
        raise ValueError(
            "it has no tokenizer: none of "
            f"{', '.join(_VOCABULARIES)} is there. Copy the tokenizer's files into it, or save "
            "them there with tokenizer.save_pretrained"
        )
    found = {folder / _CONFIG, *_weights(folder), *_matching(folder, _TOKENIZER)}
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
    family = family_of(_model_type(config))
    layers = _json(config).get(family.layers)
    if type(layers) is not int or layers < 1:
        layers = _by_default(config)
    return Described(family.kind, layers)


def _by_default(config: Path) -> int:
    """The number of blocks that transformers gives a config which does not say it."""
    from transformers import AutoConfig  # takes seconds to import, and few configs are silent

    try:
        told = AutoConfig.from_pretrained(config, trust_remote_code=False)
        return int(told.num_hidden_layers)
    except Exception as error:  # whatever a broken config makes two libraries raise
        raise ValueError(f"{_CONFIG} cannot be read: {type(error).__name__}: {error}") from error


def read(
    folder: Path, device: torch.device, dtype: DType
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read model and tokenizer.

    Raises:
        ValueError: If the family is not known, weights are missing, do not fit or are not finite,
            or a library cannot make sense of a file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    family = family_of(_model_type(folder / _CONFIG))
    auto = AutoModelForMaskedLM if family.kind == "masked" else AutoModelForCausalLM
    with _linked(files(folder)) as links, _quiet():
        try:
            loaded: Any = auto.from_pretrained(
                links,
                dtype=getattr(torch, dtype),
                device_map={"": device},  # straight to where it is wanted, a shard at a time
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused by name, as missing ones are
                key_mapping=_renamed(folder),
            )
            tokenizer = AutoTokenizer.from_pretrained(links, trust_remote_code=False)
        except Exception as error:  # whatever a broken checkpoint makes three libraries raise
            text = (str(error).strip() or "?").replace(str(links), str(folder))
            raise ValueError(f"{type(error).__name__}: {text.splitlines()[0]}") from error
    model, report = loaded
    model.config.name_or_path = tokenizer.name_or_path = ""
    _check_complete(report)
    _check_finite(model, dtype)
    return model, tokenizer


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]


def _weights(folder: Path) -> list[Path]:
    """The file with the weights, or the index and the files that it names."""
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if not (folder / _INDEX).is_file():
        raise ValueError(
            f"it has no {_WEIGHTS} and no {_INDEX}; weights in other formats are not read: save "
            "the model with save_pretrained"
        )
    shards = sorted(set(_json(folder / _INDEX).get("weight_map", {}).values()))
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing or not shards:
        raise ValueError(f"{_INDEX} names files that are not there: {_some(missing)}")
    outside = [name for name in shards if Path(name).name != name]
    if outside:
        raise ValueError(f"{_INDEX} names files outside the folder: {_some(outside)}")
    return [folder / _INDEX, *(folder / name for name in shards)]


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
        raise ValueError(f"{_CONFIG} does not say which family it is: it has no model_type")
    if "/" in str(found.get("attn_implementation")):
        raise ValueError(f"{_CONFIG} names code of a hub as attn_implementation; remove that line")
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
    from safetensors import safe_open

    names: list[str] = []
    for path in _weights(folder):
        if path.name != _INDEX:
            with safe_open(path, "pt") as file:
                names += file.keys()
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

    wrong = [
        name
        for name, parameter in model.named_parameters()
        if parameter.numel()
        and not all(bool(torch.isfinite(x)) for x in torch.aminmax(parameter.detach()))
    ]
    if wrong:
        hint = "; they may be too large for float16: try dtype=float32" * (dtype == "float16")
        raise ValueError(f"it has weights that are NaN or infinite: {_some(wrong)}{hint}")


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
