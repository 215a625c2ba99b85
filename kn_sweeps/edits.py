"""Edits: frozen values that say what to change, never a changed model.

`interventions.applied` puts one into effect and takes it out again; `interventions.merge` writes
it into the weights. An edit equals itself only: its tensors have no single answer to `==`, and
what is in effect is told apart by which edit it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from kn_sweeps.showing.sheets import Sheet, Shown

Where = Literal["everywhere", "read"]

Neuron = tuple[int, int]
"""One input coordinate of an MLP's output projection: (layer, index), both from 0."""


class _Shown(Shown):
    """Shown by what is changed in which layer, for tensors say nothing."""

    __slots__ = ()

    def sheet(self) -> Sheet:
        """A line for each layer that is changed."""
        assert isinstance(self, Edit)
        return Sheet(f"edit ({type(self).__name__})", changes(self), ("layer", "change", "norm"))


@dataclass(frozen=True, repr=False, eq=False)
class NeuronScale(_Shown):
    """Multiply neurons by a factor.

    Attributes:
        neurons: Which; none at all is the identity.
        factor: 0 suppresses, 2 enhances.
        where: At every position, as a change of weights does, or only where an answer is `read`,
            as the published code does.
    """

    neurons: tuple[Neuron, ...]
    factor: float
    where: Where = "everywhere"


@dataclass(frozen=True, repr=False, eq=False)
class RankOne(_Shown):
    """Add `outer(v, u)` to an MLP's output projection W (d_model x d_ff): y + (x.u) v.

    Attributes:
        layer: Whose projection, from 0.
        u: Direction read from the neurons.
        v: Direction written to the residual stream.
    """

    layer: int
    u: Float[Tensor, " d_ff"]
    v: Float[Tensor, " d_model"]


@dataclass(frozen=True, repr=False, eq=False)
class LowRank(_Shown):
    """Add `v^T u` to an MLP's output projection W (d_model x d_ff): y + v^T (u x).

    Attributes:
        layer: Whose projection, from 0.
        u: Directions read from the neurons.
        v: Directions written to the residual stream.
    """

    layer: int
    u: Float[Tensor, "rank d_ff"]
    v: Float[Tensor, "rank d_model"]


@dataclass(frozen=True, repr=False, eq=False)
class Dense(_Shown):
    """Add `change^T` to an MLP's output projection W (d_model x d_ff): y + x change.

    Attributes:
        layer: Whose projection, from 0.
        change: Row i is added to what neuron i writes.
    """

    layer: int
    change: Float[Tensor, "d_ff d_model"]


@dataclass(frozen=True, repr=False, eq=False)
class InContext(_Shown):
    """Put a text before everything that is asked; no weight changes.

    Of several at once, every `before` stands first, then every `text`, then every `behind`, in
    their order; a `before` or `behind` that some share stands there once. See `apart`.

    Attributes:
        text: What the model is told, with the blank or line break that ends it.
        before: What stands before all that is told, such as demonstrations.
        behind: What stands between all that is told and the question.
    """

    text: str
    before: str = ""
    behind: str = ""


@dataclass(frozen=True, repr=False, eq=False)
class Joint(_Shown):
    """Several edits at once: what is added is summed, and neurons are scaled before all of it.

    Texts stand one behind the other; see `InContext`.

    Attributes:
        parts: In any order.
    """

    parts: tuple[Edit, ...]


Edit = NeuronScale | RankOne | LowRank | Dense | InContext | Joint

State = Mapping[str, Tensor]
"""What a method carries along a sequence of edits, by name; nothing where one begins."""


NO_EDIT = Joint(())
"""It changes nothing."""


def parts(edit: Edit) -> Iterator[NeuronScale | RankOne | LowRank | Dense | InContext]:
    """What a joint edit is made of; any other edit is its own part."""
    if isinstance(edit, Joint):
        for part in edit.parts:
            yield from parts(part)
    else:
        yield edit


def change_of(part: RankOne | LowRank | Dense) -> Float[Tensor, "d_ff d_model"]:
    """What is added to what each neuron writes, as a whole matrix."""
    if isinstance(part, Dense):
        return part.change
    u, v = (x.reshape(-1, x.shape[-1]) for x in (part.u, part.v))
    return u.T @ v


def apart(edit: Edit | None) -> tuple[str, Edit | None]:
    """What an edit puts before everything that is asked, and what it does to the model.

    The second is None where that is nothing, and the edit itself where it has no text.
    """
    if edit is None:
        return "", None
    every = list(parts(edit))
    told = [part for part in every if isinstance(part, InContext)]
    if not told:
        return "", edit
    before = dict.fromkeys(one.before for one in told)
    behind = dict.fromkeys(one.behind for one in told)
    rest = joined(part for part in every if not isinstance(part, InContext))
    text = "".join((*before, *(one.text for one in told), *behind))
    return text, None if is_identity(rest) else rest


def changes(edit: Edit) -> list[tuple[int | str, str, str]]:
    """What an edit changes: the layer, how, and the Frobenius norm of what is added to W.

    A text in context has no layer.
    """
    found: list[tuple[int | str, str, str]] = []
    for part in parts(edit):
        match part:
            case NeuronScale(neurons, factor, where):
                for layer in sorted({layer for layer, _ in neurons}):
                    own = ", ".join(str(index) for at, index in neurons if at == layer)
                    read = " where the answer is read" * (where == "read")
                    found.append((layer, f"neurons {own} times {factor:g}{read}", ""))
            case RankOne(layer, u, v):
                found.append((layer, "rank 1", f"{float(u.norm() * v.norm()):.3g}"))
            case LowRank(layer, u, v):
                # |v^T u|^2 is the trace of (u u^T)(v v^T), which is small.
                square = ((u @ u.T) * (v @ v.T)).sum().clamp(min=0)
                found.append((layer, f"rank {len(u)}", f"{float(square.sqrt()):.3g}"))
            case Dense(layer, change):
                found.append((layer, "every weight", f"{float(change.norm()):.3g}"))
            case InContext(text):
                found.append(("", f"told {text.strip()!r}", ""))
            case Joint():  # has been taken apart
                pass
    return found


def joined(edits: Iterable[Edit]) -> Edit:
    """All of `edits` at once, with the low-rank ones and the dense ones of a layer in one.

    Where the low-rank ones cost no less than a dense one, or there is one already, they are in it:
    however many edits are joined, what comes of it costs no more than that.
    """
    rest: list[Edit] = []
    dense: dict[int, Tensor] = {}
    rows: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for part in (part for edit in edits for part in parts(edit)):
        match part:
            case RankOne(layer, u, v):
                rows.setdefault(layer, []).append((u[None], v[None]))
            case LowRank(layer, u, v):
                rows.setdefault(layer, []).append((u, v))
            case Dense(layer, change):
                dense[layer] = dense[layer] + change if layer in dense else change
            case NeuronScale(()):
                pass
            case _:
                rest.append(part)
    for layer, pairs in rows.items():
        u, v = (torch.cat([pair[n] for pair in pairs]) for n in (0, 1))
        rank, read, written = len(u), u.shape[1], v.shape[1]
        if layer in dense:
            dense[layer] = torch.addmm(dense[layer], u.T, v)
        elif rank * (read + written) >= read * written:
            dense[layer] = u.T @ v
        else:
            rest.append(LowRank(layer, u, v))
    rest += [Dense(layer, change) for layer, change in dense.items()]
    return rest[0] if len(rest) == 1 else Joint(tuple(rest))


def is_identity(edit: Edit) -> bool:
    """Whether an edit is one that plainly changes nothing."""

    def nothing(part: Edit) -> bool:
        if isinstance(part, InContext):
            return not part.before + part.text + part.behind
        return isinstance(part, NeuronScale) and (not part.neurons or part.factor == 1)

    return all(map(nothing, parts(edit)))


def finite(edit: Edit) -> bool:
    """Whether every number of an edit is finite."""
    return all(
        bool(torch.isfinite(value).all())
        for part in parts(edit)
        for value in vars(part).values()
        if isinstance(value, Tensor)
    )


def save_edits(path: Path, edits: Mapping[str, Edit]) -> None:
    """Write edits to a safetensors file: tensors by number, and what they are in its metadata."""
    tensors: dict[str, Tensor] = {}

    def described(edit: Edit) -> dict[str, Any]:
        about: dict[str, Any] = {"kind": type(edit).__name__}
        for field in fields(edit):
            value = getattr(edit, field.name)
            if isinstance(value, Tensor):
                about[field.name] = {"tensor": str(len(tensors))}
                tensors[str(len(tensors))] = value.detach().cpu().clone().contiguous()
            elif isinstance(edit, Joint):
                about[field.name] = [described(part) for part in value]
            else:
                about[field.name] = value
        return about

    text = json.dumps([[name, described(edit)] for name, edit in edits.items()])
    save_file(tensors, path, metadata={"edits": text})


def save_states(path: Path, states: Sequence[State]) -> None:
    """Write what plans of a sequence left to a safetensors file."""
    named = {
        f"{number}/{name}": tensor.detach().cpu().contiguous()
        for number, state in enumerate(states)
        for name, tensor in state.items()
    }
    save_file(named, path, metadata={"states": str(len(states))})


def load_states(path: Path) -> list[State]:
    """Read what `save_states` wrote, in its order."""
    with safe_open(path, "pt") as file:
        states: list[dict[str, Tensor]] = [{} for _ in range(int(file.metadata()["states"]))]
        for key in file.keys():  # noqa: SIM118 - it is no mapping
            number, name = key.split("/", 1)
            states[int(number)][name] = file.get_tensor(key)
    return list(states)


def load_edits(path: Path) -> dict[str, Edit]:
    """Read what `save_edits` wrote, in its order."""
    kinds = {kind.__name__: kind for kind in get_args(Edit)}
    with safe_open(path, "pt") as file:

        def made(about: dict[str, Any]) -> Edit:
            values = dict(about)
            kind = kinds[values.pop("kind")]
            for name, value in values.items():
                if isinstance(value, dict):
                    values[name] = file.get_tensor(value["tensor"])
                elif kind is Joint:
                    values[name] = tuple(made(part) for part in value)
                elif kind is NeuronScale and name == "neurons":
                    values[name] = tuple((layer, index) for layer, index in value)
            edit: Edit = kind(**values)
            return edit

        return {name: made(about) for name, about in json.loads(file.metadata()["edits"])}
