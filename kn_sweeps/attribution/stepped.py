"""The fast integrand: rows join the batch at the layer they are about.

Scaling the neurons of layer l where the target is predicted changes nothing before that layer's
MLP output and, in a causal LM, nothing at earlier positions. So a row starts as the unchanged
model's state behind layer l with the MLP's output scaled. A causal LM's row has only the positions
that predict the target and attends to the recorded keys and values of those before them; a masked
LM's row has all positions up to the last block, which is computed at the masked one only.

The model's own forward runs, with hooks on its blocks that add the rows and an attention function
that adds the keys and values, so no family needs code of its own. First the prompts themselves run
like this: that gives the gradient at alpha = 1 for every layer at once, and their probability must
be the model's own, which checks the construction on every prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
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
        rows = [row for rows in self.readings.rows for row in rows]
        counts = [len(rows) for rows in self.readings.rows]
        self._lanes = [range(sum(counts[:p]), sum(counts[: p + 1])) for p in range(len(prompts))]
        width = max(len(row.positions) for row in rows)
        # Where a row has fewer places than another, its last one is repeated and not looked at.
        reads = [row.positions + row.positions[-1:] * (width - len(row.positions)) for row in rows]
        places = self.readings.places(range(len(prompts)))
        at = (places.row, places.column)
        with torch.no_grad():
            self._recording, hidden = _record(
                lm, [row.ids for row in rows], torch.tensor(reads, device=lm.device)
            )
            own, _ = measured(lm, hidden[at], places, len(prompts), measure)
        self.whole = self._whole(places, len(prompts))
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
        joins: dict[int, tuple[list[int], list[float]]] = {}
        for n in order:
            prompt, layer, alpha = points[n]
            lanes, alphas = joins.setdefault(layer, ([], []))
            lanes += self._lanes[prompt]
            alphas += [alpha] * len(self._lanes[prompt])
        places = self.readings.places([points[n].prompt for n in order])
        # The blocks below the first layer need a row to run on.
        steps = _Pass(self._lm, self._recording, [0], joins)
        hidden = steps.hidden()[1:][places.row, places.column]
        values, outer = measured(self._lm, hidden, places, len(points), self._measure)
        leaves = [steps.joined[layer] for layer in joins]
        found = torch.cat(torch.autograd.grad(hidden, leaves, outer))[places.row, places.column]
        gradients = self.readings.by_point(found, places, len(points))
        back = torch.tensor(order, device=values.device).argsort()
        return values[back], gradients[back]

    def _whole(self, places: Places, prompts: int) -> Whole:
        recording = self._recording
        at = (places.row, places.column)
        lanes = list(range(len(recording.ids)))
        steps = _Pass(self._lm, recording, lanes, {}, differentiable=True)
        hidden = steps.hidden()[at]
        values, outer = measured(self._lm, hidden, places, prompts, self._measure)
        gradients = torch.autograd.grad(hidden, steps.mlp_outputs, outer)

        def by_point(x: list[Tensor]) -> Tensor:
            return torch.stack([self.readings.by_point(y, places, prompts) for y in x])

        whole_rows = [gradient.shape[1] > recording.reads.shape[1] for gradient in gradients]
        found = [
            gradient[places.row, places.position if whole else places.column]
            for gradient, whole in zip(gradients, whole_rows, strict=True)
        ]
        linear = by_point([x[at] for x in recording.linear])
        rest = by_point([x[at] for x in recording.sums]) - linear
        ratios = linear.norm(dim=-1) / rest.norm(dim=-1).clamp(min=torch.finfo(rest.dtype).tiny)
        neurons = by_point([x[at] for x in recording.neurons])
        return Whole(neurons, values, by_point(found), ratios.amax(-1))


@dataclass
class _Recording:
    """The unchanged model on some rows of input ("lanes"), with one number of reads each.

    Attributes:
        ids: Token ids, right-padded.
        mask: Which of them are there.
        reads: Positions that predict.
        neurons: A layer's neurons at the reads.
        linear: Its MLP's output there, without the bias.
        sums: What the MLP's output was added to and gave, there.
        outputs: Its block's whole output; masked LMs only.
        before: Keys and values before the first read; causal LMs only.
    """

    ids: Tensor
    mask: Bool[Tensor, "lanes seq"]
    reads: Tensor
    neurons: list[Float[Tensor, "lanes reads d_ff"]] = field(default_factory=list)
    linear: list[Float[Tensor, "lanes reads d_model"]] = field(default_factory=list)
    sums: list[Float[Tensor, "lanes reads d_model"]] = field(default_factory=list)
    outputs: list[Float[Tensor, "lanes seq d_model"]] = field(default_factory=list)
    before: list[KeyValue] = field(default_factory=list)

    def at_reads(self, x: Tensor, lanes: Tensor | None = None) -> Tensor:
        """`x` (rows, seq, ...) at the reads of `lanes`, all of them where not given."""
        reads = self.reads if lanes is None else self.reads[lanes]
        return x[torch.arange(len(x), device=x.device)[:, None], reads]


def _record(
    lm: LanguageModel, ids: Sequence[tuple[int, ...]], reads: Tensor
) -> tuple[_Recording, Float[Tensor, "lanes reads d_model"]]:
    """Run the model as it is; keep what stepping starts from, and the final hidden states."""
    architecture = lm.architecture
    window = getattr(lm.model.config, "sliding_window", None)
    if not architecture.mlp_adds or (window is not None and max(map(len, ids)) > window):
        raise CannotStepError(f"{architecture.model_type}: its blocks cannot be stepped")
    batch = lm.batch(ids)
    kept = _Recording(batch.ids, batch.mask.bool(), reads)
    causal = lm.kind == "causal"

    def keep_mlp(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        bias = architecture.bias(layer)

        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            kept.neurons.append(kept.at_reads(args[0]))
            linear = kept.at_reads(output)
            kept.linear.append(linear if bias is None else linear - bias)

        return hook

    def keep_block(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
            if architecture.post_norm(layer) is None:
                kept.sums.append(kept.at_reads(output))
            if not causal:
                kept.outputs.append(output)

        return hook

    def keep_sum(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        kept.sums.append(kept.at_reads(args[0]))

    def keep_keys(key: Tensor, value: Tensor) -> KeyValue:
        first = int(reads[:, 0].max())
        kept.before.append((key[:, :, :first], value[:, :, :first]))
        return key, value

    handles = []
    for layer, block in enumerate(architecture.blocks):
        handles.append(architecture.mlp_output(layer).register_forward_hook(keep_mlp(layer)))
        handles.append(block.register_forward_hook(keep_block(layer)))
        if (norm := architecture.post_norm(layer)) is not None:
            handles.append(norm.register_forward_pre_hook(keep_sum))
    with removed_after(handles), _attending(lm, keep_keys):
        hidden = kept.at_reads(lm.hidden(batch))
    if len(kept.before) != architecture.layers:
        raise CannotStepError(f"{architecture.model_type}: its attention cannot be replaced")
    return kept, hidden


class _Pass:
    """One run of the model in which rows join behind the layers they are about.

    Attributes:
        lanes: What each row is about, in the order of joining.
        joined: By layer, the sums of the rows that join there; gradients are taken here.
        mlp_outputs: Each layer's, of all rows that were there.
    """

    def __init__(
        self,
        lm: LanguageModel,
        recording: _Recording,
        first: list[int],
        joins: dict[int, tuple[list[int], list[float]]],
        *,
        differentiable: bool = False,
    ) -> None:
        """Say which rows there are.

        Args:
            lm: The model.
            recording: It, unchanged.
            first: Lanes of the rows that run through all blocks, unchanged.
            joins: By layer, ascending, lanes and alphas of the rows that join behind it.
            differentiable: Whether gradients at the unchanged rows are wanted.
        """
        self._lm, self._recording, self._differentiable = lm, recording, differentiable
        self._causal = lm.kind == "causal"
        self._last = lm.architecture.layers - 1
        self._joins, self._present = joins, len(first)
        lanes = [*first, *(lane for members, _ in joins.values() for lane in members)]
        self.lanes = torch.tensor(lanes, device=lm.device)
        self.joined: dict[int, Tensor] = {}
        self.mlp_outputs: list[Tensor] = []
        self._layer = 0
        self._keys: KeyValue | None = None
        self._taking_keys = False

    def hidden(self) -> Float[Tensor, "rows reads d_model"]:
        """Run, and give the final hidden states at every row's reads. Differentiable."""
        lm, recording = self._lm, self._recording
        inputs: dict[str, Any] = {"attention_mask": self._mask()}
        if self._causal:
            # Rows that join later are only counted here: their ids are never looked at.
            inputs["input_ids"] = recording.at_reads(recording.ids)[self.lanes]
            inputs["position_ids"] = recording.reads[self.lanes]
            inputs["use_cache"] = False
        else:
            inputs["input_ids"] = recording.ids[self.lanes]
        handles: list[RemovableHandle] = []
        for layer, block in enumerate(lm.architecture.blocks):
            handles.append(block.register_forward_pre_hook(self._enter(layer), with_kwargs=True))
            handles.append(block.register_forward_hook(self._leave(layer)))
            if self._differentiable:
                mlp = lm.architecture.mlp_output(layer)
                handles.append(mlp.register_forward_hook(self._keep_mlp_output))
        with removed_after(handles), _attending(lm, self._key_value):
            hidden: Tensor = lm.architecture.base(**inputs).last_hidden_state
        return hidden

    def _mask(self) -> Bool[Tensor, "rows 1 queries keys"]:
        recording = self._recording
        if not self._causal:
            return recording.mask[self.lanes][:, None, None, :]
        first, width = recording.reads[:, 0], recording.reads.shape[1]
        before = torch.arange(int(first.max()), device=first.device) < first[:, None]
        own = torch.ones(width, width, dtype=torch.bool, device=first.device).tril()
        rows = before[self.lanes][:, None].expand(-1, width, -1)
        return torch.cat([rows, own.expand(len(rows), -1, -1)], -1)[:, None]

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
                hidden = self._recording.at_reads(hidden, self.lanes[: self._present])
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
        members, scales = self._joins[layer]
        recording = self._recording
        lanes = torch.tensor(members, device=self.lanes.device)
        linear, total = recording.linear[layer][lanes], recording.sums[layer][lanes]
        alphas = torch.tensor(scales, device=linear.device, dtype=torch.float64)
        changed = total + ((alphas - 1)[:, None, None] * linear).to(linear.dtype)
        self.joined[layer] = changed.requires_grad_()
        norm = self._lm.architecture.post_norm(layer)
        here = changed if norm is None else norm(changed)
        if self._causal or layer == self._last:
            return here
        reads = recording.reads[lanes]
        rows = torch.arange(len(members), device=lanes.device)[:, None].expand_as(reads)
        return recording.outputs[layer][lanes].index_put((rows, reads), here)

    def _keep_mlp_output(self, _module: nn.Module, _args: Any, output: Tensor) -> None:
        self.mlp_outputs.append(output)

    def _those_present(self, x: Any) -> Any:
        """Whatever has a place for every row, cut down to the rows that are there by now."""
        if isinstance(x, Tensor) and x.dim() and len(x) == len(self.lanes):
            return x[: self._present]
        if isinstance(x, tuple):
            return tuple(self._those_present(item) for item in x)
        if isinstance(x, dict):
            return {name: self._those_present(item) for name, item in x.items()}
        return x

    def _key_value(self, key: Tensor, value: Tensor) -> KeyValue:
        if self._causal:
            lanes = self.lanes[: self._present]
            before = [x[lanes] for x in self._recording.before[self._layer]]
            return torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
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
