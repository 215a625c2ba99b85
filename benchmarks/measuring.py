"""What every benchmark measures with: memory, operations and the machine's matrix product."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import OmegaConf
from tokenizers import Tokenizer, models
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from typing_extensions import override

from kn_sweeps.config import build
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import Encoded
from kn_sweeps.records.places import CONF

Result = TypeVar("Result")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Peak:
    """Most memory in use above what was in use at the start, in bytes."""

    bytes: int = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Watch memory inside the block: this process's resident pages, or CUDA's allocations."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    _give_back_freed_pages()
    before, over = _resident(), threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            peak.bytes = max(peak.bytes, _resident() - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def _give_back_freed_pages() -> None:
    """Freed memory that the C library keeps would hide what is allocated from it."""
    with suppress(AttributeError, OSError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def timed(what: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    """What it gives, and how many seconds it takes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = what()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


def operations(what: Callable[[], object]) -> int:
    """Floating-point operations of its matrix products, forward and backward."""
    total = [0]
    with _Counting(total):
        what()
    return total[0]


class _Counting(TorchDispatchMode):
    """PyTorch's own counter follows modules too, which forbids gradients at their inputs."""

    def __init__(self, total: list[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._total = total

    @override
    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self._total[0] += count(*args, **(kwargs or {}), out_val=output)
        return output


def matrix_product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the best of a few large matrix products."""
    a, b = (torch.randn(2048, 2048, device=device).to(dtype) for _ in range(2))
    best = min(timed(lambda: a @ b, device)[1] for _ in range(8))
    return 2 * 2048**3 / best


def configured_model(name: str, dtype: str = "float32") -> LanguageModel:
    """A model of conf/model, on the CPU."""
    config = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{name}.yaml"), resolve=True)
    assert isinstance(config, dict)
    lm: LanguageModel = build({str(k): v for k, v in config.items()}).load(
        torch.device("cpu"), dtype
    )
    return lm


def random_model(name: str, model: PreTrainedModel) -> LanguageModel:
    """A model with a tokenizer that is never used."""
    words = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "[MASK]", "word"))}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="[UNK]")),
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
    )
    return LanguageModel(model, tokenizer, name=name)


def random_prompts(lm: LanguageModel, count: int, tokens: int) -> list[Encoded]:
    """Prompts of random tokens; the answer is the last one, or masked in the middle."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(4, int(lm.model.config.vocab_size), (count, tokens), generator=draw)
    at = tokens - 1 if lm.kind == "causal" else tokens // 2
    return [Encoded(tuple(row), (at, at + 1), None) for row in ids.tolist()]


def official_data(root: str | None, name: str) -> str:
    """The folder of official files, `root` or the one KN_SWEEPS_DATA names."""
    data = os.environ.get("KN_SWEEPS_DATA")
    if root is None and data is None:
        raise SystemExit("name the official files: --root DIR or KN_SWEEPS_DATA")
    return root or str(Path(str(data)) / name)


def say(text: str) -> None:
    """Tell how far it is, on standard error."""
    print(text, file=sys.stderr, flush=True)


def table(rows: Sequence[dict[str, object]]) -> str:
    """Rows as a Markdown table."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([_cell(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
