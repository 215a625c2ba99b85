"""Files that cannot be read back as they were written: noticed, named and moved aside.

What is written is sealed: a JSON object holds the SHA-256 of itself, a config that of its text in
a comment, a file of tensors that of its tensors, and what lists other files holds theirs. So a
flipped byte is noticed like a file cut short, and no number is ever read from either. A damaged
file is renamed to `NAME.damaged`, where nothing looks for it, and what it held is computed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kn_sweeps.records.files import finite, write_atomically, write_text

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
T = TypeVar("T")

_SEAL = "sha256"
_COMMENT = f"# {_SEAL}: "
_SUFFIX = ".damaged"


class DamagedError(ValueError):
    """A file is not what was written.

    Attributes:
        path: Which.
    """

    def __init__(self, path: Path, why: str) -> None:
        """Say what is wrong with it."""
        super().__init__(f"{path} is damaged: {why}")
        self.path = path


def quarantined(error: DamagedError, then: str) -> None:
    """Move a damaged file, or a folder that holds one, aside and say so.

    Args:
        error: What is wrong with it.
        then: What happens next, for people.
    """
    aside = error.path.with_name(error.path.name + _SUFFIX)
    if aside.is_dir():  # a folder cannot take the place of another
        shutil.rmtree(aside, ignore_errors=True)
    try:
        os.replace(error.path, aside)
    except FileNotFoundError:  # it is what is missing, or another process was faster
        log.warning("%s; %s", error, then)
    except OSError as refused:  # another user's
        log.warning("%s, and cannot be moved aside (%s); %s", error, refused.strerror, then)
    else:
        log.warning("%s (kept as %s); %s", error, aside.name, then)


def unless_damaged(read: Callable[[], T], then: str) -> T | None:
    """What `read` gives; None where there is nothing, or what is damaged, which is moved aside."""
    try:
        return read()
    except FileNotFoundError:
        return None
    except DamagedError as error:
        quarantined(error, then)
        return None


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its own checksum."""
    return {**value, _SEAL: _digest(value)}


def write_sealed(path: Path, value: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """Write a sealed JSON object; NaN, which JSON does not have, becomes null."""
    text = json.dumps(sealed(finite(value)), indent=indent, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a JSON object; one without a seal, which other programs write, is taken as it is.

    Raises:
        DamagedError: If it is not what was written.
        OSError: If it cannot be opened.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedError(path, f"it is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise DamagedError(path, f"expected a JSON object, got {type(found).__name__}")
    if (seal := found.pop(_SEAL, None)) is not None and seal != _digest(found):
        raise DamagedError(path, "its checksum is not that of its content")
    return found


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_sealed_text(path: Path, text: str) -> None:
    """Write text atomically, its checksum in a comment on top (`# sha256: ...`)."""
    write_text(path, f"{_COMMENT}{_digest_of_text(text)}\n{text}")


def read_sealed_text(path: Path) -> str:
    """Read text; one without a checksum on top, which other programs write, is taken as it is.

    Raises:
        DamagedError: If it is not what was written.
        OSError: If it cannot be opened.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DamagedError(path, f"it is no text ({error})") from error
    if not text.startswith(_COMMENT):
        if re.search("[0-9a-f]{64}$", text.partition("\n")[0]):
            raise DamagedError(path, "the comment with its checksum is not as it was")
        return text
    seal, _, rest = text.removeprefix(_COMMENT).partition("\n")
    if seal != _digest_of_text(rest):
        raise DamagedError(path, "its checksum is not that of its content")
    return rest


def _digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def checksum(path: Path) -> list[Any]:
    """The size of a file and its SHA-256."""
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def verify(path: Path, expected: list[Any], *, thorough: bool = True) -> None:
    """Check that a file is the one whose `checksum` was taken.

    Args:
        path: The file.
        expected: That checksum.
        thorough: Read it; otherwise its size has to do.

    Raises:
        DamagedError: If it is not.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise DamagedError(path, "it is missing") from None
    if size != expected[0]:
        raise DamagedError(path, f"it has {size} bytes, not {expected[0]}")
    if thorough and checksum(path) != expected:
        raise DamagedError(path, "its checksum is not the one that was noted")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write a sealed safetensors file atomically.

    Args:
        path: Where.
        tensors: Tensors by name.
        about: What else it says, as JSON can.
    """
    from safetensors.torch import save_file

    metadata = {"about": json.dumps(about), _SEAL: _digest_of(tensors, json.dumps(about))}
    write_atomically(path, lambda at: save_file(dict(tensors), at, metadata=metadata))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: the tensors, and what else it says.

    Raises:
        DamagedError: If it is not what was written.
        OSError: If it cannot be opened.
    """
    from safetensors import SafetensorError, safe_open

    with path.open("rb"):
        pass  # safetensors' own error for a missing file does not say which
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    # What a broken header makes a library of another language raise is not documented.
    except (SafetensorError, ValueError, KeyError, RuntimeError, OSError) as error:
        raise DamagedError(path, f"it is no safetensors file ({error})") from error
    if metadata.get(_SEAL) != _digest_of(tensors, metadata.get("about", "")):
        raise DamagedError(path, "its checksum is not that of its content")
    about: dict[str, Any] = json.loads(metadata["about"])
    return tensors, about


def _digest_of(tensors: Mapping[str, Tensor], about: str) -> str:
    import torch  # reading results takes no model library

    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
