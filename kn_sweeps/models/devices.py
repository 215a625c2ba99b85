"""Models whose layers lie on several devices, or whose weights are fetched for each use.

accelerate's hooks send to every module what it reads, and fetch weights that are offloaded to
memory or disk, which are `meta` tensors between calls. Here every module is made to give back what
it puts out on the device that it was given it on. So all that stands outside of blocks, and all
that this project computes, is on one device, the model's home, and only what is inside a block lies
where the block is: `Hooks` brings it home.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

# Importing torch takes seconds, and configs name what is here before they need it.
if TYPE_CHECKING:
    import torch
    from accelerate.hooks import AlignDevicesHook
    from torch import Tensor, nn
    from transformers import PreTrainedModel

_HOME = "_kn_sweeps_home"


def settle_at_home(model: PreTrainedModel) -> torch.device:
    """Let a model that accelerate dispatched give back everything at one device.

    Returns:
        Where token ids, final hidden states and logits are: where embeddings are computed.
    """
    import torch

    hooks = [hook for module in model.modules() for hook in _aligning(module)]
    reads = model.get_input_embeddings()
    told = [hook.execution_device for hook in _aligning(reads) if hook.execution_device is not None]
    weight = reads.weight
    assert isinstance(weight, torch.Tensor)
    home = _device(told[0]) if told else weight.device
    if home.type == "meta" and hooks:
        home = torch.device("cpu")
    for hook in hooks:
        hook.io_same_device = True
    for hook in _aligning(model):
        hook.execution_device = home  # it only hands on what it gets, to whichever device
    every = {_device(one.execution_device) for one in hooks if one.execution_device is not None}
    for module in model.modules() if every - {home} else ():
        setattr(module, _HOME, home)
    return home


def is_dispatched(model: nn.Module) -> bool:
    """Whether accelerate takes tensors to the modules, or weights to where they are computed."""
    return any(_aligning(module) for module in model.modules())


def is_fetched(module: nn.Module) -> bool:
    """Whether a module's own weights are nowhere between its calls."""
    return any(hook.offload for hook in _aligning(module))


@contextmanager
def weights_there(module: nn.Module) -> Iterator[None]:
    """Have a module's own weights where they are computed with, inside the block.

    What is written into those that are fetched is lost.
    """
    from accelerate.utils import align_module_device

    with align_module_device(module):
        yield


def weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every weight and its name; those that are fetched one module at a time."""
    for path, module in model.named_modules():
        with weights_there(module):
            yield from module.named_parameters(path, recurse=False)


def keep_files(model: nn.Module) -> None:
    """Let weights on disk be read from the files themselves, not from links that will be gone."""
    for module in model.modules():
        for hook in _aligning(module):
            index = getattr(getattr(hook.weights_map, "dataset", None), "index", None) or {}
            for where in index.values():
                if "safetensors_file" in where:
                    where["safetensors_file"] = str(Path(where["safetensors_file"]).resolve())


def mapped(model: nn.Module) -> dict[str, str] | None:
    """What is where, as provenance says it; None for a model on one device."""
    if not is_dispatched(model):
        return None
    told = getattr(model, "hf_device_map", None) or {"": "offloaded"}
    return {name: str(where) for name, where in told.items()}


def recast(module: nn.Module, kind: type[nn.Module]) -> None:
    """Exchange a module's class, also where accelerate stands before its forward."""
    module.__class__ = kind
    if hasattr(module, "_old_forward"):
        setattr(module, "_old_forward", MethodType(kind.forward, module))  # noqa: B010


def home_of(module: nn.Module) -> torch.device | None:
    """Where what is in a module is brought; None where it is there."""
    home: torch.device | None = getattr(module, _HOME, None)
    return home


def sent(x: Any, device: torch.device) -> Any:
    """Tensors, and tuples, lists and mappings of them, at a device; all else as it is."""
    import torch

    if isinstance(x, torch.Tensor):
        return x.to(device)
    if type(x) in (tuple, list):
        return type(x)(sent(one, device) for one in x)
    if type(x) is dict:
        return {name: sent(one, device) for name, one in x.items()}
    return x


def output_at_home(hook: Callable[..., Any], home: torch.device) -> Callable[..., Any]:
    """A hook on a module's output that gets, and gives, all of it at home."""

    def moved(module: nn.Module, args: Any, output: Any) -> Any:
        there = _where(output)
        got = sent(output, home)
        new = hook(module, sent(args, home), got)
        # Also what no hook changes passes home, or its gradients would not.
        new = got if new is None else new
        return new if there is None else sent(new, there)

    return moved


def input_at_home(hook: Callable[..., Any], home: torch.device) -> Callable[..., Any]:
    """A hook on a module's input that gets all of it at home; accelerate takes it on."""

    def moved(module: nn.Module, *given: Any) -> Any:
        got = sent(given, home)
        new = hook(module, *got)
        return (got if len(got) > 1 else got[0]) if new is None else new

    return moved


def _where(x: Any) -> torch.device | None:
    import torch

    if isinstance(x, torch.Tensor):
        return x.device
    found = (_where(one) for one in x) if type(x) in (tuple, list) else iter(())
    return next((one for one in found if one is not None), None)


def _aligning(module: nn.Module) -> list[AlignDevicesHook]:
    """What accelerate hooked to a module that take tensors or weights to a device."""
    from accelerate.hooks import AlignDevicesHook, SequentialHook

    hook = getattr(module, "_hf_hook", None)
    every = hook.hooks if isinstance(hook, SequentialHook) else [hook]
    return [one for one in every if isinstance(one, AlignDevicesHook)]


def _device(name: int | str | torch.device) -> torch.device:
    import torch

    return torch.device("cuda", name) if isinstance(name, int) else torch.device(name)
