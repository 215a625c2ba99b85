"""Handles on the parts of one loaded model, checked against its family's line (`families`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from kn_sweeps.cases import LMKind
from kn_sweeps.models.devices import home_of, is_fetched, weights_there
from kn_sweeps.models.families import Family, family_of
from kn_sweeps.models.hooks import Hooks, first_of
from kn_sweeps.models.precision import at_least_float32
from kn_sweeps.models.quantized import kept_as
from kn_sweeps.models.rewriting import rewrite

_NOTHING = 1e-9
"""A multiple of what an MLP puts out that no norm tells from 0."""


class Architecture:
    """Handles on the parts of one loaded model, verified when it is made.

    Attributes:
        kind: "causal" or "masked".
        layers: Number of transformer blocks; layers are counted from 0.
        d_model: Width of the residual stream.
        d_embedding: Width of the token embeddings, which a few families project to `d_model`.
        adds_as_is: Whether what an MLP puts out is itself added to the residual stream.
        d_ff: Number of neurons in a layer.
        max_tokens: How many tokens the model reads; None where nothing says.
        rewritten: Modules that compute in another way here than in transformers.
    """

    def __init__(self, model: PreTrainedModel, family: Family | None = None) -> None:
        """Find and check the parts of `model`.

        Args:
            model: Where they are looked for.
            family: Where they should be; None for what FAMILIES has of the model's family.

        Raises:
            ValueError: If the family is unknown, or a path or shape does not hold.
        """
        quantizer: Any = getattr(model, "hf_quantizer", None)
        if quantizer is not None:
            method = quantizer.quantization_config.quant_method
            raise ValueError(
                f"its weights are quantised by {getattr(method, 'value', method)}, and what "
                "neurons write is read from weights: load it with quantization='8bit' or '4bit' of "
                "kn.load (model.quantization), whose weights can be read"
            )
        self._model = model
        self.model_type = str(model.config.model_type)
        self._family = family_of(self.model_type) if family is None else family
        self.kind: LMKind = self._family.kind
        self.base: nn.Module = self._find(self._family.base)
        self.embeddings: nn.Module = self._find(self._family.embeddings)
        self.blocks: list[nn.Module] = list(self._find(self._family.blocks).children())
        if not self.blocks:
            raise ValueError(f"{self.model_type}: {self._family.blocks!r} has no blocks")
        self.layers = len(self.blocks)
        self._projections, self._attentions = (
            [self._find(f"{self._family.blocks}.{layer}.{path}") for layer in range(self.layers)]
            for path in (self._family.mlp_output, self._family.attention_output)
        )
        if self.embeddings is not model.get_input_embeddings():
            raise ValueError(
                f"{self.model_type}: {self._family.embeddings!r} is not what tokens are read with"
            )
        embedding = self.embeddings.weight
        assert isinstance(embedding, Tensor)
        self.d_embedding = int(embedding.shape[1])
        self.d_model = int(model.config.hidden_size)
        self.d_ff = _mlp_width(model)
        self.max_tokens = self._most_tokens()
        self._check_projections()
        self.adds_as_is = self._family.output_norm is None and self._family.factor is None
        self._factor = 1.0 if self._family.factor is None else self._setting(self._family.factor)
        for layer in range(self.layers):
            self._output_norm(layer)
            self._post_norm(layer)
        path = self._family.rewritten
        self.rewritten = [] if path is None else [one.get_submodule(path) for one in self.blocks]
        for module in self.rewritten:
            rewrite(module)

    def mlp_output(self, layer: int) -> nn.Module:
        """The output projection of `layer`'s MLP; its input is that layer's neurons."""
        self.check_layer(layer)
        return self._projections[layer]

    def pre_activation(self, layer: int) -> nn.Module | None:
        """What `layer`'s activation function reads; see `Family`."""
        self.check_layer(layer)
        return self._in_block(layer, self._family.pre_activation)

    @property
    def pre_activation_width(self) -> int:
        """How much `pre_activation` puts out; the first `d_ff` are what is read."""
        return 2 * self.d_ff if self._family.fused else self.d_ff

    def attention_output(self, layer: int) -> nn.Module:
        """The output projection of `layer`'s attention."""
        self.check_layer(layer)
        return self._attentions[layer]

    def values(self, layer: int) -> Float[Tensor, "d_ff d_model"]:
        """The value slots of `layer`: row i is what neuron i writes.

        A view of the weight where that is on the model's one device and not quantised, else a copy.
        """
        self.check_layer(layer)
        projection = self._projections[layer]
        with weights_there(projection):
            return self._home(projection, self._neurons_first(layer))

    def bias(self, layer: int) -> Float[Tensor, " d_model"] | None:
        """The output projection's bias, None where the family has none."""
        projection = self.mlp_output(layer)
        with weights_there(projection):
            bias = getattr(projection, "bias", None)
            return self._home(projection, bias) if isinstance(bias, Tensor) else None

    def identity(self, projection: nn.Module) -> object:
        """What two projections have in common only if they share their weights."""
        with weights_there(projection):
            weight = projection.weight
            assert isinstance(weight, Tensor)
            # What is fetched or quantised is at another address each time.
            copied = is_fetched(projection) or kept_as(projection) is not None
            return tuple(weight.flatten()[:64].tolist()) if copied else weight.data_ptr()

    @staticmethod
    def _home(module: nn.Module, weight: Tensor) -> Tensor:
        home = home_of(module)
        return weight if home is None else weight.to(home)

    def watch_sum(self, hooks: Hooks, layer: int, keep: Callable[[Tensor], None]) -> None:
        """Let `keep` see what `layer`'s MLP output was added to and gave, (batch, seq, d_model).

        It is the block's output, or what the norm gets that follows the sum.
        """
        if (norm := self._post_norm(layer)) is None:
            hooks.on_output(self.blocks[layer], lambda _m, _args, output: keep(first_of(output)))
        else:
            hooks.on_input(norm, lambda _m, args: keep(args[0]))

    def added(self, layer: int, outputs: Float[Tensor, "... d_model"]) -> Tensor:
        """What `layer` adds to the residual stream where its MLP puts out `outputs`."""
        norm = self._output_norm(layer)
        behind: Tensor = outputs if norm is None else norm(outputs)
        return behind if self._factor == 1 else behind * self._factor

    def moved(self, layer: int, sums: Tensor, outputs: Tensor, change: Tensor) -> Tensor:
        """`sums`, had `layer`'s MLP put out `change` more than `outputs`; (..., d_model) each."""
        if self.adds_as_is:
            return sums + change
        return sums - self.added(layer, outputs) + self.added(layer, outputs + change)

    def sharpness(self, layer: int, outputs: Float[Tensor, "... d_model"]) -> Float[Tensor, " ..."]:
        """How much faster what is added grows at 0 than up to `outputs`.

        1 where it is proportional. A norm gives nearly the same for all but the smallest of
        multiples.
        """
        wide = at_least_float32(outputs)
        small = self.added(layer, wide * _NOTHING).norm(dim=-1) / _NOTHING
        whole = self.added(layer, wide).norm(dim=-1)
        sharpness: Tensor = small / whole.clamp(min=torch.finfo(whole.dtype).tiny)
        return sharpness

    def from_sum(self, layer: int, sums: Float[Tensor, "... d_model"]) -> Tensor:
        """`layer`'s block output, of what its MLP output was added to and gave."""
        norm = self._post_norm(layer)
        return sums if norm is None else norm(sums)

    def _post_norm(self, layer: int) -> nn.Module | None:
        return self._in_block(layer, self._family.post_norm)

    def _output_norm(self, layer: int) -> nn.Module | None:
        return self._in_block(layer, self._family.output_norm)

    def _in_block(self, layer: int, path: str | None) -> nn.Module | None:
        return None if path is None else self._find(f"{self._family.blocks}.{layer}.{path}")

    def _setting(self, name: str) -> float:
        value = getattr(self._model.config, name, None)
        if not isinstance(value, int | float):
            raise ValueError(f"{self.model_type}: its config has no number {name!r}")
        return float(value)

    def head(self, hidden: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocab"]:
        """Logits of final hidden states."""
        return self._family.head(self._model, hidden)

    def check_layer(self, layer: int) -> None:
        """Raise ValueError unless `layer` exists."""
        if not 0 <= layer < self.layers:
            raise ValueError(f"layer {layer} does not exist; the model has 0 to {self.layers - 1}")

    def _find(self, path: str) -> nn.Module:
        try:
            return self._model.get_submodule(path)
        except AttributeError as error:
            raise ValueError(
                f"{self._model.config.model_type}: no module {path!r} in "
                f"{type(self._model).__name__}; FAMILIES in kn_sweeps/models/families.py "
                "does not fit this version of transformers or this class"
            ) from error

    def _neurons_first(self, layer: int) -> Tensor:
        weight = self._projections[layer].weight
        assert isinstance(weight, Tensor)
        return weight if self._family.conv1d else weight.T

    def _check_projections(self) -> None:
        kind = Conv1D if self._family.conv1d else nn.Linear
        for layer, projection in enumerate(self._projections):
            shape = tuple(self._neurons_first(layer).shape)
            if not isinstance(projection, kind) or shape != (self.d_ff, self.d_model):
                raise ValueError(
                    f"{self.model_type}: the output projection of layer {layer} should be a "
                    f"{kind.__name__} from {self.d_ff} neurons to {self.d_model}, got "
                    f"{type(projection).__name__} {shape}"
                )

    def _most_tokens(self) -> int | None:
        limit = int(getattr(self._model.config, "max_position_embeddings", 0) or 0)
        for module in self.base.modules():
            if (
                isinstance(module, nn.Embedding)
                and module is not self.embeddings
                and module.num_embeddings == limit
                and module.padding_idx is not None
            ):
                # RoBERTa's positions begin behind the one that stands for padding.
                return limit - module.padding_idx - 1
        return limit or None


def _mlp_width(model: PreTrainedModel) -> int:
    """Neurons in a layer, as the config says: families name it differently or leave it out."""
    for name in ("intermediate_size", "hidden_dim", "n_inner", "ffn_dim", "ffn_hidden_size"):
        width = getattr(model.config, name, None)
        if width is not None:
            return int(width)
    return 4 * int(model.config.hidden_size)
