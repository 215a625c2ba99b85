"""Watch and change what a model computes, and leave no trace.

Every change is a hook, or a text before what is asked, so weights are never touched and leaving the
block restores the model bit for bit, whatever is raised inside.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kn_sweeps.edits import (
    Dense,
    Edit,
    InContext,
    LowRank,
    NeuronScale,
    RankOne,
    Where,
    apart,
    parts,
)
from kn_sweeps.models.devices import is_dispatched
from kn_sweeps.models.hooks import Hooks
from kn_sweeps.models.language_model import LanguageModel, where_read
from kn_sweeps.models.quantized import dequantize
from kn_sweeps.plans import Plan

Neurons = Float[Tensor, "batch seq d_ff"]
Outputs = Float[Tensor, "batch seq d_model"]
RowIndex = slice | Tensor
_Add = Callable[[Tensor], Tensor]


@contextmanager
def neurons_replaced(
    lm: LanguageModel, change: Mapping[int, Callable[[Tensor], Tensor]]
) -> Iterator[None]:
    """Give each layer in `change` its function's neurons (batch, seq, d_ff) for the model's."""

    def hook(layer: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        return lambda _module, args: (change[layer](args[0]), *args[1:])

    with Hooks() as hooks:
        for layer in change:
            hooks.on_input(lm.architecture.mlp_output(layer), hook(layer))
        yield


@contextmanager
def outputs_replaced(
    lm: LanguageModel,
    change: Mapping[int, Callable[[Tensor, Tensor], Tensor]],
    module: Callable[[int], nn.Module] | None = None,
) -> Iterator[None]:
    """Give each layer in `change` its function of (input, output) for a module's output.

    Args:
        lm: The model.
        change: By layer.
        module: Each layer's; None for the MLP's output projection, whose input is the neurons.
    """

    def hook(layer: int) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        return lambda _module, args, output: change[layer](args[0], output)

    with Hooks() as hooks:
        for layer in change:
            hooks.on_output((module or lm.architecture.mlp_output)(layer), hook(layer))
        yield


@contextmanager
def recorded(
    lm: LanguageModel,
    layers: range | list[int],
    module: Callable[[int], nn.Module] | None = None,
) -> Iterator[dict[int, tuple[Neurons, Outputs]]]:
    """Collect (neurons, MLP output) of `layers` from the last forward pass inside.

    Of another `module` than the MLP's output projection, its input and output.
    """
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(layer: int) -> Callable[[Tensor, Tensor], Tensor]:
        def look(neurons: Tensor, output: Tensor) -> Tensor:
            seen[layer] = (neurons.detach(), output.detach())
            return output

        return look

    with outputs_replaced(lm, {layer: keep(layer) for layer in layers}, module):
        yield seen


@contextmanager
def applied(lm: LanguageModel, edit: Edit | Plan) -> Iterator[None]:
    """Put `edit`, or all edits of a plan at once, into effect inside the block.

    A text in context stands before what the model encodes inside the block, behind those of blocks
    around it (`LanguageModel.encode`); not before token ids that were made elsewhere.

    Raises:
        ValueError: If the edit names a layer or neuron the model does not have, its vectors do
            not fit, or the plan has no edit for one of its cases.
    """
    one = edit.joint() if isinstance(edit, Plan) else edit
    if not isinstance(one, Edit):
        raise ValueError(f"expected an edit, or the plan of a method; got {one!r}")
    text, rest = apart(one)
    outer = lm.context
    with _changed(lm, [] if rest is None else [(slice(None), rest)]):
        lm.context = outer + text
        try:
            yield
        finally:
            lm.context = outer


@contextmanager
def applied_rowwise(lm: LanguageModel, edits: Sequence[Edit | None]) -> Iterator[None]:
    """Give every row of the batches inside the block its own edit.

    Args:
        lm: The model.
        edits: That of each row of a batch; None leaves the row as it is.

    Raises:
        ValueError: As `applied`, or if one has a text in context: rows are tokens by now, what
            asks has put it before them.
    """
    rows: dict[Edit, list[int]] = defaultdict(list)
    for row, edit in enumerate(edits):
        if edit is not None:
            rows[edit].append(row)
    with _changed(lm, [(_indexed(lm, at), edit) for edit, at in rows.items()]):
        yield


@contextmanager
def _changed(lm: LanguageModel, edits: Sequence[tuple[RowIndex, Edit]]) -> Iterator[None]:
    """Hook the layers that `edits` change; each acts on its own rows of a batch."""
    scales: dict[int, list[tuple[RowIndex, Tensor, Where]]] = defaultdict(list)
    adds: dict[int, list[tuple[RowIndex, _Add]]] = defaultdict(list)
    for rows, edit in edits:
        for part in parts(edit):
            if isinstance(part, NeuronScale):
                for layer, factors in _factors(lm, part).items():
                    scales[layer].append((rows, factors, part.where))
            elif isinstance(part, InContext):
                raise ValueError(
                    "a text in context is put before what is asked and cannot be given to rows of "
                    "tokens; ask with questions that carry the edit, or inside `applied`"
                )
            else:
                adds[part.layer].append((rows, _added(lm, part)))

    def scaled(layer: int) -> Callable[[Tensor], Tensor]:
        def change(x: Tensor) -> Tensor:
            x = x.clone()
            for rows, factors, where in scales[layer]:
                if where == "read":
                    there = where_read()[rows, :, None]
                    x[rows] = torch.where(there, x[rows] * factors.to(x.dtype), x[rows])
                else:
                    x[rows] *= factors.to(x.dtype)
            return x

        return change

    def with_added(layer: int) -> Callable[[Tensor, Tensor], Tensor]:
        def change(x: Tensor, y: Tensor) -> Tensor:
            y = y.clone()
            for rows, add in adds[layer]:
                y[rows] += add(x[rows].to(_wide(x))).to(y.dtype)
            return y

        return change

    with (
        neurons_replaced(lm, {layer: scaled(layer) for layer in scales}),
        outputs_replaced(lm, {layer: with_added(layer) for layer in adds}),
    ):
        yield


@torch.no_grad()
def written_by(lm: LanguageModel, layer: int, neurons: Sequence[int]) -> Outputs:
    """What each neuron writes when it is 1: its value slot, as edited by hooks in effect.

    Returns:
        Shape (1, neurons, d_model).
    """
    mlp = lm.architecture.mlp_output(layer)
    ones = torch.zeros(1, len(neurons) + 1, lm.architecture.d_ff, device=lm.device)
    ones[0, range(len(neurons)), list(neurons)] = 1
    output: Tensor = mlp(ones.to(lm.model.dtype))
    return output[:, :-1] - output[:, -1:]


@torch.no_grad()
def merge(lm: LanguageModel, edit: Edit) -> None:
    """Write `edit` into the weights, for export; quantised ones become plain. No way back.

    Raises:
        ValueError: As `applied`, or if the edit is no change of weights, or the model's are not on
            one device.
    """
    if is_dispatched(lm.model):
        raise ValueError(
            f"{lm.name}: its weights lie on several devices or are fetched for each use, and what "
            "is written into them would be lost; load it with model.device_map=null"
        )
    every = list(parts(edit))
    weights = [part for part in every if not isinstance(part, InContext)]
    if len(weights) < len(every):
        raise ValueError(
            "an edit in context changes no weights, only what is asked, and cannot be written into "
            "a checkpoint; put its text before your prompts"
        )
    if any(isinstance(part, NeuronScale) and part.where == "read" for part in every):
        raise ValueError(
            "neurons that are scaled only where an answer is read are no change of weights and "
            "cannot be written into a checkpoint; use where=everywhere"
        )
    lm.revision = ""
    dequantize(lm.model)
    for part in weights:
        if not isinstance(part, NeuronScale):
            values = lm.architecture.values(part.layer)
            values += _change(lm, part).to(values.dtype)
    # Neurons are scaled before anything is added to what they write.
    for part in weights:
        if isinstance(part, NeuronScale):
            for layer, factors in _factors(lm, part).items():
                values = lm.architecture.values(layer)
                values *= factors[:, None].to(values.dtype)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _indexed(lm: LanguageModel, rows: Sequence[int]) -> RowIndex:
    """Rows as an index; a slice, which copies nothing, where they follow each other."""
    if list(rows) == list(range(rows[0], rows[-1] + 1)):
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows, device=lm.device)


def _factors(lm: LanguageModel, edit: NeuronScale) -> dict[int, Float[Tensor, " d_ff"]]:
    """What each layer's neurons are multiplied by."""
    factors: dict[int, Tensor] = {}
    for layer, index in edit.neurons:
        lm.architecture.check_layer(layer)
        if not 0 <= index < lm.architecture.d_ff:
            raise ValueError(
                f"neuron ({layer}, {index}) does not exist; layer {layer} has 0 to "
                f"{lm.architecture.d_ff - 1}"
            )
        if layer not in factors:
            factors[layer] = torch.ones(lm.architecture.d_ff, device=lm.device)
        factors[layer][index] = edit.factor
    return factors


def _added(lm: LanguageModel, edit: RankOne | LowRank | Dense) -> _Add:
    """What an edit adds to the MLP's output, given the neurons."""
    if isinstance(edit, Dense):
        change = _change(lm, edit)
        return lambda x: x @ change.to(x.dtype)
    u, v = _directions(lm, edit)
    return lambda x: (x @ u.T.to(x.dtype)) @ v.to(x.dtype)


def _change(lm: LanguageModel, edit: RankOne | LowRank | Dense) -> Float[Tensor, "d_ff d_model"]:
    """What an edit adds to the value slots."""
    if not isinstance(edit, Dense):
        u, v = _directions(lm, edit)
        return u.T @ v
    lm.architecture.check_layer(edit.layer)
    expected = (lm.architecture.d_ff, lm.architecture.d_model)
    if tuple(edit.change.shape) != expected:
        raise ValueError(
            f"a dense edit of this model needs a change of {expected}, got "
            f"{tuple(edit.change.shape)}"
        )
    return edit.change.to(lm.device).float()


def _directions(lm: LanguageModel, edit: RankOne | LowRank) -> tuple[Tensor, Tensor]:
    """(rank, d_ff) and (rank, d_model)."""
    lm.architecture.check_layer(edit.layer)
    u, v = (x[None] if x.ndim == 1 else x for x in (edit.u, edit.v))
    expected = (lm.architecture.d_ff, lm.architecture.d_model)
    if (u.shape[1], v.shape[1]) != expected or len(u) != len(v):
        raise ValueError(
            f"a low-rank edit of this model needs vectors of {expected}, got "
            f"{(u.shape[1], v.shape[1])}"
        )
    return u.to(lm.device).float(), v.to(lm.device).float()
