"""Run a model only where a change matters: rows join the batch at the layer they are about.

Changing what layer l's MLP puts out changes nothing before that and, in a causal LM, nothing at
earlier positions. So a row starts as the unchanged model's state behind layer l with another MLP
output. A causal LM's row is a span of positions: it attends to the recorded keys and values of
the positions before it, and to itself. A masked LM's row is the whole sequence, up to the last
block, which is computed only where it is read.

The model's own forward runs, with hooks on its blocks that add the rows and an attention function
that adds the keys and values, so no family needs code of its own. Whoever uses this compares what
stepping gives for the unchanged model with the model's own answer (`Recording.hidden`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from kn_sweeps.models.attending import KeyValue, attending
from kn_sweeps.models.hooks import Hooks
from kn_sweeps.models.language_model import Ids, LanguageModel


class CannotStepError(Exception):
    """The model's blocks do not give what stepping needs; whole rows do without."""


@dataclass(frozen=True)
class Span:
    """Where a row may depart from the unchanged model.

    Attributes:
        ids: The row's token ids.
        first: First position that may change.
        size: How many positions are run from there; a masked LM runs all of the row.
        read: Where a masked LM's final hidden state is read; a causal LM's is read everywhere
            in the span.
    """

    ids: Ids
    first: int
    size: int
    read: int


class Recording:
    """The unchanged model on some spans.

    What belongs to a span has shape (spans, width, ...). A masked LM's width is 1: the position
    that changes. Positions beyond a span's end repeat the row's last one and mean nothing.

    Attributes:
        width: Size of the longest span.
        neurons: By layer, the MLP's neurons.
        linear: By layer, the MLP's output without its bias.
        written: By layer, the MLP's output.
        sums: By layer, what the MLP's output was added to and gave.
        hidden: Final hidden states; of a masked LM, where it is read.
    """

    def __init__(self, lm: LanguageModel, spans: Sequence[Span], layers: Collection[int]) -> None:
        """Run the model.

        Args:
            lm: The model.
            spans: What to run.
            layers: Those whose MLP will be changed.

        Raises:
            CannotStepError: If the family's blocks cannot be stepped.
        """
        architecture = lm.architecture
        # What stands in for the model's attention knows of no capped scores and the like.
        if not lm.can_be_stepped or lm.model.config._attn_implementation != "sdpa":
            raise CannotStepError(f"{architecture.model_type}: its blocks cannot be stepped")
        self._lm = lm
        self.causal = lm.kind == "causal"
        batch = lm.batch([span.ids for span in spans])
        self.ids, self.mask = batch.ids, batch.mask.bool()
        self.first = self._tensor([span.first for span in spans])
        self.sizes = [span.size if self.causal else 1 for span in spans]
        self.width = max(self.sizes)
        last = self._tensor([len(span.ids) - 1 for span in spans])[:, None]
        steps = torch.arange(self.width, device=lm.device)
        self.positions: Int[Tensor, "spans width"] = torch.minimum(
            self.first[:, None] + steps, last
        )
        self.read = self._tensor([span.read for span in spans])
        self.neurons: dict[int, Tensor] = {}
        self.linear: dict[int, Tensor] = {}
        self.written: dict[int, Tensor] = {}
        self.sums: dict[int, Tensor] = {}
        self.outputs: dict[int, Tensor] = {}
        self.before: list[KeyValue] = []
        longest_before = int(self.first.max())

        plain = self._plain_mask()
        seen: list[Tensor] = []

        def keep_keys(key: Tensor, value: Tensor, mask: Tensor | None) -> KeyValue:
            if mask is not None and not any(mask is one for one in seen):
                self._check_mask(mask, plain)
                seen.append(mask)
            if self.causal:
                self.before.append((key[:, :, :longest_before], value[:, :, :longest_before]))
            else:
                self.before.append((key[:0], value[:0]))
            return key, value

        with torch.no_grad(), Hooks() as hooks, attending(lm, keep_keys):
            for layer in layers:
                hooks.on_output(architecture.mlp_output(layer), self._keep_mlp(layer))
                architecture.watch_sum(hooks, layer, partial(self._keep_sum, layer))
                if not self.causal:
                    hooks.on_output(architecture.blocks[layer], self._keep_block(layer))
            hidden = lm.hidden(batch)
        if len(self.before) != architecture.layers:
            raise CannotStepError(f"{architecture.model_type}: its attention cannot be replaced")
        where = self.positions if self.causal else self.read[:, None]
        self.hidden: Float[Tensor, "spans width d_model"] = self._at(hidden, where)

    def _plain_mask(self) -> Bool[Tensor, "spans 1 seq seq"]:
        """What the mask of a stepped row is made like: which keys every token of a row sees."""
        size = self.mask.shape[1]
        earlier = self.mask.new_ones(size, size)
        return (earlier.tril() if self.causal else earlier) & self.mask[:, None, None, :]

    def _check_mask(self, mask: Tensor, plain: Bool[Tensor, "spans 1 seq seq"]) -> None:
        """Refuse rows that see anything else, as through a window that is shorter than they are."""
        if mask.dtype != torch.bool or bool(((mask ^ plain) & self.mask[:, None, :, None]).any()):
            raise CannotStepError(
                f"{self._lm.architecture.model_type}: a row's tokens do not see all those before "
                "them alike"
            )

    def _tensor(self, values: Sequence[int]) -> Int[Tensor, " n"]:
        return torch.tensor(values, device=self._lm.device)

    @staticmethod
    def _at(x: Tensor, positions: Tensor) -> Tensor:
        # Indexing by tensors copies: what a block changes in place afterwards is not seen.
        return x[torch.arange(len(x), device=x.device)[:, None], positions]

    def _keep_mlp(self, layer: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        bias = self._lm.architecture.bias(layer)

        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            self.neurons[layer] = self._at(args[0], self.positions)
            linear = self._at(output, self.positions)
            self.written[layer] = linear
            # The bias is no neuron's: it stays where neurons are scaled.
            self.linear[layer] = linear if bias is None else linear - bias

        return hook

    def _keep_sum(self, layer: int, sums: Tensor) -> None:
        self.sums[layer] = self._at(sums, self.positions)

    def _keep_block(self, layer: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
            self.outputs[layer] = output

        return hook


class Join(NamedTuple):
    """Rows that join behind a layer.

    Attributes:
        spans: Whose unchanged state they start from.
        sums: What takes the place of `Recording.sums` there.
    """

    spans: Int[Tensor, " rows"]
    sums: Float[Tensor, "rows width d_model"]


class Pass:
    """One run of the model in which rows join behind the layers they are about.

    Attributes:
        spans: Those of all rows of its batch, in the order in which they join.
        mlp_outputs: Each layer's, of all rows; only where gradients at unchanged rows are wanted.
    """

    def __init__(
        self,
        lm: LanguageModel,
        recording: Recording,
        joins: Mapping[int, Join],
        unchanged: Sequence[int] = (),
        *,
        differentiable: bool = False,
    ) -> None:
        """Say which rows there are.

        Args:
            lm: The model.
            recording: It, unchanged.
            joins: By layer, ascending, the rows that join behind it.
            unchanged: Spans whose rows run through all blocks; they come first.
            differentiable: Whether gradients at the unchanged rows are wanted.
        """
        self._lm, self._recording, self._differentiable = lm, recording, differentiable
        self._causal = recording.causal
        self._last = lm.architecture.layers - 1
        self._joins = joins
        # The blocks below the first join need a row to run on.
        self._idle = 0 if unchanged else 1
        start = torch.tensor(list(unchanged) or [0], device=lm.device)
        self._present = len(start)
        self.spans = torch.cat([start, *(join.spans for join in joins.values())])
        sizes = [recording.sizes[span] for span in self.spans.tolist()]
        self.width = max(sizes[self._idle :])
        self.mlp_outputs: list[Tensor] = []
        self._layer = 0
        self._keys: KeyValue | None = None
        self._taking_keys = False

    def hidden(self) -> Float[Tensor, "rows width d_model"]:
        """Run, and give the rows' final hidden states. Differentiable."""
        lm, recording, spans = self._lm, self._recording, self.spans
        inputs: dict[str, Any] = {"input_ids": recording.ids[spans]}
        if self._causal:
            positions = recording.positions[spans, : self.width]
            inputs["input_ids"] = inputs["input_ids"].gather(1, positions)
            # A model that is fed a span would count its positions from 0.
            inputs |= {"position_ids": positions, "use_cache": False}
            steps = torch.arange(recording.before[0][0].shape[2], device=lm.device)
            # Recorded keys reach as far as the longest prompt's: of others the rest is hidden.
            before = steps < recording.first[spans][:, None]
            own = torch.ones(self.width, self.width, device=lm.device).tril().bool()
            mask = torch.cat(
                [
                    before[:, None].expand(-1, self.width, -1),
                    own.expand(len(spans), -1, -1),
                ],
                -1,
            )
            inputs["attention_mask"] = mask[:, None]
        else:
            # Rows that join later are only counted in the inputs: their ids are never looked at.
            inputs["attention_mask"] = recording.mask[spans][:, None, None, :]
        with Hooks() as hooks, attending(lm, self._key_value):
            for layer, block in enumerate(lm.architecture.blocks):
                hooks.on_input(block, self._enter(layer), with_kwargs=True)
                hooks.on_output(block, self._leave(layer))
                if self._differentiable:
                    hooks.on_output(lm.architecture.mlp_output(layer), self._keep_mlp_output)
            hidden: Tensor = lm.architecture.base(**inputs).last_hidden_state
        return hidden[self._idle :]

    def at_positions(self, x: Float[Tensor, "spans seq d_model"]) -> Tensor:
        """What belongs to the input positions of every row, in the order of the pass's batch."""
        own = x[self.spans]
        if not self._causal:
            return own
        positions = self._recording.positions[self.spans, : self.width]
        return own.gather(1, positions[:, :, None].expand(-1, -1, x.shape[-1]))

    def _enter(self, layer: int) -> Callable[..., Any]:
        def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self._taking_keys:
                return None
            self._layer = layer
            hidden, *others = args
            rest = self._those_present(tuple(others))
            kwargs = self._those_present(kwargs)
            if layer == 0:
                # Weights are frozen: where gradients are wanted, the graph needs a leaf.
                hidden = hidden[: self._present].detach().requires_grad_(self._differentiable)
            if not self._causal and layer == self._last:
                # Every position is attended to, and one alone attends.
                self._take_keys(block, hidden, rest, kwargs)
                rows = torch.arange(self._present, device=hidden.device)
                hidden = hidden[rows, self._recording.read[self.spans[: self._present]]][:, None]
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
        recording, (spans, sums) = self._recording, self._joins[layer]
        here = self._lm.architecture.from_sum(layer, sums)
        if self._causal:
            return here[:, : self.width]
        whole = recording.outputs[layer][spans]
        rows = torch.arange(len(spans), device=here.device)
        changed = whole.index_put((rows, recording.first[spans]), here[:, 0])
        # The last block runs only where it is read.
        return changed[rows, recording.read[spans]][:, None] if layer == self._last else changed

    def _keep_mlp_output(self, _module: nn.Module, _args: Any, output: Tensor) -> None:
        self.mlp_outputs.append(output)

    def _those_present(self, x: Any) -> Any:
        """Whatever has a place for every row, cut down to the rows that are there by now."""
        if isinstance(x, Tensor) and x.dim() and len(x) == len(self.spans):
            return x[: self._present]
        if isinstance(x, tuple):
            return tuple(self._those_present(item) for item in x)
        if isinstance(x, dict):
            return {name: self._those_present(item) for name, item in x.items()}
        return x

    def _key_value(self, key: Tensor, value: Tensor, _mask: Tensor | None) -> KeyValue:
        if self._causal:
            spans = self.spans[: self._present]
            keys, values = self._recording.before[self._layer]
            return torch.cat([keys[spans], key], 2), torch.cat([values[spans], value], 2)
        if self._taking_keys:
            self._keys = (key, value)
            raise _KeysTaken
        if self._layer == self._last:
            assert self._keys is not None
            return self._keys
        return key, value


class _KeysTaken(BaseException):
    """Ends a block once its keys and values are known."""
