"""The fast integrand: rows join the batch at the layer they are about.

Scaling the neurons of layer l where the target is predicted changes nothing before that layer's
MLP output and, in a causal LM, nothing at earlier positions. So rows start as the unchanged
model's state behind layer l with the MLP's output scaled. There is one row for each place that
predicts a token of the target. A causal LM's row is that one position: it attends to the recorded
keys and values of the positions before the target, and to the rows of its point before it. A
masked LM's row is the whole sequence, up to the last block, which is computed at the mask only.

The model's own forward runs, with hooks on its blocks that add the rows and an attention function
that adds the keys and values, so no family needs code of its own. First the prompts themselves run
like this: that gives the gradient at alpha = 1 for every layer at once, and their measure must be
the model's own, which checks the construction on every prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from kn_sweeps.attribution.integrand import (
    Measure,
    Places,
    Point,
    Readings,
    Whole,
    measured,
    removed_after,
)
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import Encoded

KeyValue = tuple[Tensor, Tensor]


class CannotStepError(Exception):
    """The model's blocks do not give what stepping needs; the general integrand does without."""


class SteppedIntegrand:
    """See `Integrand`."""

    def __init__(
        self, lm: LanguageModel, prompts: Sequence[Encoded], measure: Measure = "probability"
    ) -> None:
        """Run the unchanged model on `prompts`.

        Raises:
            CannotStepError: If the family's blocks cannot be stepped, or stepping does not give
                the model's own measure of the targets.
        """
        self._lm, self._measure = lm, measure
        self.readings = Readings(lm, prompts)
        places = self.readings.places(range(len(prompts)))
        ids = [row.ids for rows in self.readings.rows for row in rows]
        with torch.no_grad():
            self._recording, hidden = _record(lm, ids, places)
            own, _ = measured(lm, hidden, places, len(prompts), measure)
        self.whole = self._whole(len(prompts))
        off = (self.whole.values - own).abs() / own.abs().clamp(min=torch.finfo(own.dtype).tiny)
        if not float(off.max()) <= 4 * math.sqrt(torch.finfo(lm.model.dtype).eps):
            raise CannotStepError(
                f"stepping gives a {measure.replace('_', '-')} of {self.whole.values.tolist()}, "
                f"the model itself {own.tolist()}"
            )

    def at(
        self, points: Sequence[Point]
    ) -> tuple[Float[Tensor, " points"], Float[Tensor, "points slots d_model"]]:
        """See `Integrand.at`."""
        order = sorted(range(len(points)), key=lambda n: points[n].layer)
        ordered = [points[n] for n in order]
        places = self.readings.places([point.prompt for point in ordered])
        joins: dict[int, list[tuple[int, float]]] = {}
        for source, n in zip(places.source.tolist(), places.point.tolist(), strict=True):
            joins.setdefault(ordered[n].layer, []).append((source, ordered[n].alpha))
        # The blocks below the first layer need a row to run on.
        steps = _Pass(self._lm, self._recording, [0], joins)
        hidden = steps.hidden()[1:]
        values, outer = measured(self._lm, hidden, places, len(points), self._measure)
        leaves = [steps.joined[layer] for layer in joins]
        found = torch.cat(torch.autograd.grad(hidden, leaves, outer))
        gradients = self.readings.by_point(found, places, len(points))
        back = torch.tensor(order, device=values.device).argsort()
        return values[back], gradients[back]

    def _whole(self, prompts: int) -> Whole:
        recording = self._recording
        places = recording.places
        everything = list(range(len(places.row)))
        steps = _Pass(self._lm, recording, everything, {}, differentiable=True)
        hidden = steps.hidden()
        values, outer = measured(self._lm, hidden, places, prompts, self._measure)
        gradients = torch.autograd.grad(hidden, steps.mlp_outputs, outer)
        every = torch.arange(len(places.row), device=values.device)

        def by_point(x: Sequence[Tensor]) -> Tensor:
            return torch.stack([self.readings.by_point(y, places, prompts) for y in x])

        # A row is one position, or all of them before a masked LM's last block.
        at = [y[:, 0] if y.shape[1] == 1 else y[every, places.position] for y in gradients]
        linear = by_point(recording.linear)
        rest = by_point(recording.sums) - linear
        ratios = linear.norm(dim=-1) / rest.norm(dim=-1).clamp(min=torch.finfo(rest.dtype).tiny)
        return Whole(by_point(recording.neurons), values, by_point(at), ratios.amax(-1))


@dataclass
class _Recording:
    """The unchanged model on the prompts' rows.

    Attributes:
        ids: Token ids, right-padded.
        mask: Which of them are there.
        places: Where targets are predicted.
        neurons: A layer's neurons there.
        linear: Its MLP's output there, without the bias.
        sums: What the MLP's output was added to and gave, there.
        outputs: Its block's whole output; masked LMs only.
        before: Keys and values before the targets; causal LMs only.
    """

    ids: Int[Tensor, "rows seq"]
    mask: Bool[Tensor, "rows seq"]
    places: Places
    neurons: list[Float[Tensor, "places d_ff"]] = field(default_factory=list)
    linear: list[Float[Tensor, "places d_model"]] = field(default_factory=list)
    sums: list[Float[Tensor, "places d_model"]] = field(default_factory=list)
    outputs: list[Float[Tensor, "rows seq d_model"]] = field(default_factory=list)
    before: list[KeyValue] = field(default_factory=list)

    def at_places(self, x: Tensor) -> Tensor:
        """`x` (rows, seq, ...) at the places."""
        return x[self.places.row, self.places.position]


def _record(
    lm: LanguageModel, ids: Sequence[tuple[int, ...]], places: Places
) -> tuple[_Recording, Float[Tensor, "places d_model"]]:
    """Run the model as it is; keep what stepping starts from, and the final hidden states."""
    architecture = lm.architecture
    window = getattr(lm.model.config, "sliding_window", None)
    if not architecture.mlp_adds or (window is not None and max(map(len, ids)) > window):
        raise CannotStepError(f"{architecture.model_type}: its blocks cannot be stepped")
    batch = lm.batch(ids)
    kept = _Recording(batch.ids, batch.mask.bool(), places)
    causal = lm.kind == "causal"
    # The tokens of a causal LM's target are predicted at positions that follow each other.
    first = int((places.position - places.slot).max())

    def keep_mlp(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        bias = architecture.bias(layer)

        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            kept.neurons.append(kept.at_places(args[0]))
            linear = kept.at_places(output)
            kept.linear.append(linear if bias is None else linear - bias)

        return hook

    def keep_block(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
            if architecture.post_norm(layer) is None:
                kept.sums.append(kept.at_places(output))
            if not causal:
                kept.outputs.append(output)

        return hook

    def keep_sum(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        kept.sums.append(kept.at_places(args[0]))

    def keep_keys(key: Tensor, value: Tensor) -> KeyValue:
        kept.before.append((key[:, :, :first], value[:, :, :first]))
        return key, value

    handles = []
    for layer, block in enumerate(architecture.blocks):
        handles.append(architecture.mlp_output(layer).register_forward_hook(keep_mlp(layer)))
        handles.append(block.register_forward_hook(keep_block(layer)))
        if (norm := architecture.post_norm(layer)) is not None:
            handles.append(norm.register_forward_pre_hook(keep_sum))
    with removed_after(handles), _attending(lm, keep_keys):
        hidden = kept.at_places(lm.hidden(batch))
    if len(kept.before) != architecture.layers:
        raise CannotStepError(f"{architecture.model_type}: its attention cannot be replaced")
    return kept, hidden


class _Pass:
    """One run of the model in which rows join behind the layers they are about.

    Attributes:
        joined: By layer, the sums of the rows that join there; gradients are taken here.
        mlp_outputs: Each layer's, of all rows; only where all of them are there from the start.
    """

    def __init__(
        self,
        lm: LanguageModel,
        recording: _Recording,
        unchanged: list[int],
        joins: dict[int, list[tuple[int, float]]],
        *,
        differentiable: bool = False,
    ) -> None:
        """Say which rows there are.

        Args:
            lm: The model.
            recording: It, unchanged.
            unchanged: Places whose rows run through all blocks.
            joins: By layer, ascending, place and alpha of the rows that join behind it; those of
                one point follow each other.
            differentiable: Whether gradients at the unchanged rows are wanted.
        """
        self._lm, self._recording, self._differentiable = lm, recording, differentiable
        self._causal = lm.kind == "causal"
        self._last = lm.architecture.layers - 1
        self._joins, self._present = joins, len(unchanged)
        sources = [*unchanged, *(source for rows in joins.values() for source, _ in rows)]
        self._sources = torch.tensor(sources, device=lm.device)
        self._position = recording.places.position[self._sources]
        self._slot = recording.places.slot[self._sources]
        rows = torch.arange(len(sources), device=lm.device)
        own = torch.arange(int(self._slot.max()) + 1, device=lm.device)
        # Rows of the same point up to this one; what is beyond is masked.
        self._own = (rows - self._slot)[:, None] + torch.minimum(own, self._slot[:, None])
        self._own_there = own <= self._slot[:, None]
        self.joined: dict[int, Tensor] = {}
        self.mlp_outputs: list[Tensor] = []
        self._layer = 0
        self._keys: KeyValue | None = None
        self._taking_keys = False

    def hidden(self) -> Float[Tensor, "rows d_model"]:
        """Run, and give the final hidden states at every row's place. Differentiable."""
        lm, recording = self._lm, self._recording
        source_rows = recording.places.row[self._sources]
        # Rows that join later are only counted in the inputs: their ids are never looked at.
        inputs: dict[str, Any] = {"input_ids": recording.ids[source_rows]}
        if self._causal:
            first = (self._position - self._slot)[:, None]
            before = torch.arange(recording.before[0][0].shape[2], device=lm.device) < first
            mask = torch.cat([before, self._own_there], -1)
            inputs["input_ids"] = inputs["input_ids"].gather(1, self._position[:, None])
            inputs |= {"position_ids": self._position[:, None], "use_cache": False}
        else:
            mask = recording.mask[source_rows]
        inputs["attention_mask"] = mask[:, None, None, :]
        handles: list[RemovableHandle] = []
        for layer, block in enumerate(lm.architecture.blocks):
            handles.append(block.register_forward_pre_hook(self._enter(layer), with_kwargs=True))
            handles.append(block.register_forward_hook(self._leave(layer)))
            if self._differentiable:
                mlp = lm.architecture.mlp_output(layer)
                handles.append(mlp.register_forward_hook(self._keep_mlp_output))
        with removed_after(handles), _attending(lm, self._key_value):
            hidden: Tensor = lm.architecture.base(**inputs).last_hidden_state
        return hidden[:, 0]

    def _enter(self, layer: int) -> Callable[..., Any]:
        def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self._taking_keys:
                return None
            self._layer = layer
            hidden, *others = args
            rest = self._those_present(tuple(others))
            kwargs = self._those_present(kwargs)
            if layer == 0:
                hidden = hidden[: self._present].detach().requires_grad_(self._differentiable)
            if not self._causal and layer == self._last:
                self._take_keys(block, hidden, rest, kwargs)
                rows = torch.arange(self._present, device=hidden.device)
                hidden = hidden[rows, self._position[: self._present]][:, None]
            return (hidden, *rest), kwargs

        return hook

    def _take_keys(
        self, block: nn.Module, hidden: Tensor, rest: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Let the last block compute keys and values at all positions, and stop it there."""
        self._taking_keys = True
        try:
            block(hidden, *rest, **kwargs)
        except _KeysTaken:
            pass
        finally:
            self._taking_keys = False

    def _leave(self, layer: int) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        def hook(_block: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
            if layer not in self._joins:
                return None
            joining = self._joining(layer)
            self._present += len(joining)
            return torch.cat([output, joining])

        return hook

    def _joining(self, layer: int) -> Tensor:
        """The block's output for the rows that join behind it."""
        recording, joins = self._recording, self._joins[layer]
        device = self._sources.device
        sources = torch.tensor([source for source, _ in joins], device=device)
        scale = torch.tensor([alpha - 1 for _, alpha in joins], device=device, dtype=torch.float64)
        linear = recording.linear[layer][sources]
        changed = recording.sums[layer][sources] + (scale[:, None] * linear).to(linear.dtype)
        self.joined[layer] = changed.requires_grad_()
        norm = self._lm.architecture.post_norm(layer)
        here = changed if norm is None else norm(changed)
        if self._causal or layer == self._last:
            return here[:, None]
        rows = torch.arange(len(joins), device=device)
        whole = recording.outputs[layer][recording.places.row[sources]]
        return whole.index_put((rows, recording.places.position[sources]), here)

    def _keep_mlp_output(self, _module: nn.Module, _args: Any, output: Tensor) -> None:
        self.mlp_outputs.append(output)

    def _those_present(self, x: Any) -> Any:
        """Whatever has a place for every row, cut down to the rows that are there by now."""
        if isinstance(x, Tensor) and x.dim() and len(x) == len(self._sources):
            return x[: self._present]
        if isinstance(x, tuple):
            return tuple(self._those_present(item) for item in x)
        if isinstance(x, dict):
            return {name: self._those_present(item) for name, item in x.items()}
        return x

    def _key_value(self, key: Tensor, value: Tensor) -> KeyValue:
        if self._causal:
            rows = self._recording.places.row[self._sources[: self._present]]
            before = self._recording.before[self._layer]
            own = self._own[: self._present]
            return (
                torch.cat([before[0][rows], key[own, :, 0].transpose(1, 2)], 2),
                torch.cat([before[1][rows], value[own, :, 0].transpose(1, 2)], 2),
            )
        if self._taking_keys:
            self._keys = (key, value)
            raise _KeysTaken
        if self._layer == self._last:
            assert self._keys is not None
            return self._keys
        return key, value


class _KeysTaken(BaseException):
    """Ends a block once its keys and values are known."""


_seen_by: ContextVar[Callable[[Tensor, Tensor], KeyValue]] = ContextVar("_seen_by")
_ATTENTION = "kn_sweeps"


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention whose keys and values are seen, and may be replaced, by whoever runs the model."""
    key, value = _seen_by.get()(key, value)
    output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, **kwargs)
    return output


AttentionInterface.register(_ATTENTION, _attention)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)


@contextmanager
def _attending(lm: LanguageModel, seen_by: Callable[[Tensor, Tensor], KeyValue]) -> Iterator[None]:
    """Let `seen_by` see, and replace, the keys and values of every attention in the block."""
    config = lm.model.config
    before = config._attn_implementation
    token = _seen_by.set(seen_by)
    config._attn_implementation = _ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before
        _seen_by.reset(token)
