"""What a model needs of memory, told by its config alone, and how much of it is free.

Nothing here is fitted to a machine: weights are counted, and what a pass keeps for its gradients is
counted by PyTorch's own record of it while a few tokens run through the model, or through one that
has shapes and no numbers (the `meta` device). All sizes are in bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kn_sweeps.models.devices import is_dispatched
from kn_sweeps.models.quantized import Quantization, bytes_of, quantization_of

# What a config needs is counted without the model libraries being imported before.
if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from kn_sweeps.models.architecture import Architecture
    from kn_sweeps.models.checkpoints import DType

_TOKENS = 4
"""Of the row that is tried."""


@dataclass(frozen=True)
class Shape:
    """What of a model decides what it needs.

    Attributes:
        layers: Number of its blocks.
        d_model: Width of the residual stream.
        d_ff: Neurons in a layer.
        vocabulary: Size of its vocabulary.
        queries: Width of all heads' queries in a layer.
        keys: Width of all heads' keys in a layer; that of their values is the same.
        number: Bytes of a number.
        weights: Of all weights and buffers.
        largest: Numbers in the largest weight that a pass multiplies with.
        block: What a block keeps of a token for its gradient.
        parameters: Number of weights.
        masked: Whether rows are run whole, for every token sees those behind it.
    """

    layers: int
    d_model: int
    d_ff: int
    vocabulary: int
    queries: int
    keys: int
    number: int
    weights: int
    largest: int
    block: int
    parameters: int
    masked: bool

    def cache(self, rows: int, tokens: int) -> int:
        """Keys and values of all layers."""
        return rows * tokens * self.layers * 2 * self.keys * self.number

    def kept(self, rows: int, tokens: int, before: int, layers: int) -> int:
        """What `layers` blocks keep for their gradients of rows of some tokens.

        Args:
            rows: How many.
            tokens: That are run, in each.
            before: Whose recorded keys and values they attend to.
            layers: Blocks that they run through.
        """
        if self.masked:
            tokens, before = tokens + before, 0
        # One token attends to heads as they are, several to copies, one for each query's head.
        width = self.keys if tokens == 1 else self.queries
        seen = 2 * ((before + tokens) * width - tokens * self.keys) * self.number
        return rows * layers * (tokens * self.block + max(seen, 0))

    def logits(self, reads: int, copies: int) -> int:
        """Logits, and `copies` of them in single precision that are there at one time."""
        return reads * self.vocabulary * (self.number + 4 * copies)

    def scoring(self, rows: int, tokens: int) -> int:
        """Rows that are scored, without gradients: keys and values stand for later tokens."""
        return 2 * self.cache(rows, tokens) + rows * tokens * self.block + self.logits(rows, 2)

    def double(self) -> int:
        """The largest weight in double precision, beside itself turned around for its gradient."""
        return 2 * 8 * self.largest


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a method needs beside the model.

    Attributes:
        activations: At its largest, in the pass with the most of them; gradients among them.
        statistics: Second moments, and what integrals are made of; on the CPU.
        edits: What it keeps until the edits are scored.
    """

    activations: int = 0
    statistics: int = 0
    edits: int = 0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run does at a time.

    Attributes:
        tokens: Of a prompt.
        behind: Of those, from the subject's last on.
        prompts: That one edit's neurons are located by.
        cases: That are edited together.
        probes: Of a case.
        batch_size: Rows in one pass when scoring.
    """

    tokens: int = 16
    behind: int = 6
    prompts: int = 8
    cases: int = 16
    probes: int = 20
    batch_size: int = 64


def in_all(shape: Shape, needs: Needs, work: Work) -> dict[str, int]:
    """What a run needs: the model, the larger of planning and scoring, and what is kept meanwhile.

    Returns:
        `weights`, `activations`, `statistics`, `edits`, `answers` (log-probabilities of the first
        token of every answer, before and after; on the CPU) and `all`.
    """
    found = {
        "weights": shape.weights,
        "activations": max(needs.activations, shape.scoring(work.batch_size, work.tokens)),
        "statistics": needs.statistics,
        "edits": needs.edits,
        "answers": 2 * 4 * work.cases * work.probes * shape.vocabulary,
    }
    return {**found, "all": sum(found.values())}


def shape_of(model: PreTrainedModel, architecture: Architecture) -> Shape:
    """Count a model's weights and what its blocks keep; it may be on the `meta` device."""
    kept, config = quantization_of(model), model.config
    if is_dispatched(model) or kept is not None:
        dtype: Any = str(model.dtype).removeprefix("torch.")
        return shape_of_config(config.to_dict(), dtype, kept)
    every = [*model.parameters(), *model.buffers()]
    heads = int(getattr(config, "num_attention_heads", 1))
    width = int(getattr(config, "head_dim", None) or architecture.d_model // heads)
    grouped = getattr(config, "num_key_value_heads", None) or heads
    multiplied = [one for one in model.parameters() if one.dim() > 1]
    return Shape(
        layers=architecture.layers,
        d_model=architecture.d_model,
        d_ff=architecture.d_ff,
        vocabulary=int(config.vocab_size),
        queries=heads * width,
        keys=int(grouped) * width,
        number=int(model.dtype.itemsize),
        weights=sum(one.numel() * one.element_size() for one in every),
        largest=max(one.numel() for one in multiplied),
        block=_kept_by_a_block(model, architecture),
        parameters=int(model.num_parameters()),
        masked=architecture.kind == "masked",
    )


def shape_of_config(
    config: Mapping[str, Any], dtype: DType, quantization: Quantization | None = None
) -> Shape:
    """What a config.json describes, without a number of it being there.

    Raises:
        ValueError: If its family is not known.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM

    from kn_sweeps.models.architecture import Architecture
    from kn_sweeps.models.probing import kind_of

    auto: Any = AutoModelForMaskedLM if kind_of(dict(config)) == "masked" else AutoModelForCausalLM
    settings = {key: value for key, value in config.items() if key not in _NOT_OF_SIZE}
    made = CONFIG_MAPPING[str(config["model_type"])](**settings)
    with torch.device("meta"):
        model = auto.from_config(made, dtype=getattr(torch, dtype))
    model.config.pad_token_id = None  # or its ids would be searched for it, and they are no numbers
    found = shape_of(model.requires_grad_(False).train(False), Architecture(model))
    spared = bytes_of(model, None) - bytes_of(model, quantization)
    return replace(found, weights=found.weights - spared)


_NOT_OF_SIZE = ("model_type", "quantization_config", "dtype", "torch_dtype", "auto_map")


def _kept_by_a_block(model: PreTrainedModel, architecture: Architecture) -> int:
    """What a block keeps of one token for its gradient; of all blocks, the most."""
    import torch

    from kn_sweeps.models.hooks import Hooks

    every = [*model.parameters(), *model.buffers()]
    seen = {one.untyped_storage()._cdata for one in every}
    kept: dict[int, dict[int, torch.UntypedStorage]] = defaultdict(dict)
    now = [-1]

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            # Held, so that no later one is taken for it.
            kept[now[0]][storage._cdata] = storage
        return tensor

    def enter(layer: int, _module: nn.Module, _args: Any) -> None:
        now[0] = layer

    def leaf(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return output.detach().requires_grad_()

    with Hooks() as hooks, torch.enable_grad():
        hooks.on_output(architecture.embeddings, leaf)
        for layer, block in enumerate(architecture.blocks):
            hooks.on_input(block, partial(enter, layer))
        ids = torch.ones(2, _TOKENS, dtype=torch.long, device=model.device)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            architecture.base(input_ids=ids)
    # Behind the last block the model's own norm keeps something, before the first its embeddings.
    inner = [kept[layer] for layer in range(architecture.layers - (architecture.layers > 1))]
    most = max(sum(one.nbytes() for one in some.values()) for some in inner)
    return most // (2 * _TOKENS)


def free_memory(device: torch.device) -> int | None:
    """Bytes that may still be taken on a device; None where nothing tells."""
    import torch

    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + unused)
    found = [one for one in (_available(), _of_group()) if one is not None]
    return min(found, default=None)


def _available() -> int | None:
    """What Linux says that it can give."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def _of_group() -> int | None:
    """What is left of the limit that a scheduler or container sets."""
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").split("::")[1].strip()
        folder = Path("/sys/fs/cgroup") / own.lstrip("/")
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError, IndexError):
        return None
    return None if limit == "max" else max(0, int(limit) - used)
