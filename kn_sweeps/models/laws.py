"""What the rest of the project takes for granted of a model, checked on a few tokens.

A line of `FAMILIES` can name modules that exist and fit and still not be what it says. What would
make numbers wrong is refused here, with no knowledge of any family:

1. The head, fed the final hidden states, gives the model's own logits.
2. Every output projection of a layer is run once, in order, shares its weights with no other, and
   puts out W a + b, which nothing changes in place afterwards: what hooks see is what it is.
3. A block's output is the sum of what its MLP's output adds (itself, or what `output_norm` and
   `factor` make of it) and what does not depend on it (behind `post_norm` where there is one), so
   that attributions are complete and an ablation is one.
4. A row gives in a padded batch what it gives alone, and behind a cache of keys and values what it
   gives whole.
5. What `pre_activation` puts out is read by the activation function.
6. What runs in another way here (`rewriting`) gives what it gives as transformers has it.

Whether its blocks can be stepped (`stepping`) is found out in the same way; a model whose blocks
cannot be is right and slower.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kn_sweeps.models.causal_asking import Trunks
from kn_sweeps.models.hooks import Hooks, first_of
from kn_sweeps.models.language_model import Ids, LanguageModel
from kn_sweeps.models.rewriting import as_written
from kn_sweeps.models.stepping import Join, Pass, Recording, Span

log = logging.getLogger(__name__)

_MULTIPLIED = 0.05
"""Neurons that are nearer to their negatives than this share of their length are those."""
_SINGLE = 1e-5
"""Rounding of single precision: norms and softmaxes are computed in it also between doubles."""
_LONG, _SHORT = 8, 5
"""Tokens of the two rows that are tried."""


def check_laws(lm: LanguageModel) -> None:
    """Check a model, and find out whether its blocks can be stepped.

    It takes about ten passes over a few tokens.

    Raises:
        ValueError: If a law does not hold; it says which.
    """
    long, short = _rows(lm)
    with torch.no_grad():
        with _explained(lm, "It runs with what FAMILIES names."):
            trial = _Trial(lm, long, short)
        for law in _LAWS:
            with _explained(lm, law.__doc__ or ""):
                law(lm, trial)
        try:
            lm.can_be_stepped = True
            _try_steps(lm, trial)
        except Exception as error:  # whatever a family does not take
            lm.can_be_stepped = False
            log.info("%s is run in whole rows, which takes longer: %s", lm.name, error)


@contextmanager
def _explained(lm: LanguageModel, law: str) -> Iterator[None]:
    """Say of any error which family broke which law."""
    try:
        yield
    except Exception as error:  # a family that is not as its line says can fail in any way
        what = str(error) if isinstance(error, _BrokenError) else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{lm.name} cannot be used: for the family {lm.architecture.model_type!r} as FAMILIES "
            f"in kn_sweeps/models/families.py has it, this does not hold: {law} {what} (see "
            "docs/adding.md)"
        ) from error


class _BrokenError(Exception):
    """What does not hold."""


def _rows(lm: LanguageModel) -> tuple[Ids, Ids]:
    """Two rows of ordinary tokens."""
    special = {*lm.tokenizer.all_special_ids, lm.model.config.pad_token_id}
    count = max(lm.tokenizer.get_vocab().values()) + 1
    step = max(1, count // (2 * _LONG + 1))
    ordinary = [n for n in (*range(step, count, step), *range(count)) if n not in special]
    if not ordinary:
        raise ValueError(f"{lm.name}: its tokenizer has no ordinary token")
    ids = (ordinary * (_LONG + _SHORT))[: _LONG + _SHORT]
    return tuple(ids[:_LONG]), tuple(ids[_LONG:])


def _apart(found: Tensor, expected: Tensor) -> float:
    """Largest difference of two vectors in the last dimension, as a share of their length."""
    difference = (found.double() - expected.double()).norm(dim=-1)
    length = expected.double().norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
    return float((difference / length).max())


def _compare(lm: LanguageModel, found: Tensor, expected: Tensor, what: str) -> None:
    """Allow for rounding only: half of the digits, which nothing wrong ever leaves."""
    apart = _apart(found, expected)
    if not apart <= max(4 * torch.finfo(lm.model.dtype).eps ** 0.5, _SINGLE):
        raise _BrokenError(f"{what} differ by {apart:.2g} of their length")


class _Call(NamedTuple):
    """One call of an output projection: what it got and gave, and copies made at that moment."""

    layer: int
    given: Tensor
    output: Tensor
    given_then: Tensor
    output_then: Tensor


class _Trial:
    """The model on both rows, in one padded batch.

    Attributes:
        long: The longer row.
        short: The other.
        hidden: Final hidden states.
        logits: The model's own.
        calls: Of the output projections of MLPs and attentions.
        sums: By layer, what the MLP's output was added to and gave.
    """

    def __init__(self, lm: LanguageModel, long: Ids, short: Ids) -> None:
        self.long, self.short = long, short
        self.calls: dict[str, list[_Call]] = {"MLP": [], "attention": []}
        self.sums: dict[int, Tensor] = {}
        parts = lm.architecture
        hidden: list[Tensor] = []
        with Hooks() as hooks:
            for layer in range(parts.layers):
                hooks.on_output(parts.mlp_output(layer), self._called("MLP", layer))
                hooks.on_output(parts.attention_output(layer), self._called("attention", layer))
                parts.watch_sum(hooks, layer, partial(self.sums.__setitem__, layer))
            hooks.on_output(
                parts.base, lambda _m, _args, output: hidden.append(output.last_hidden_state)
            )
            batch = lm.batch([long, short])
            self.logits = lm.model(input_ids=batch.ids, attention_mask=batch.mask).logits
        (self.hidden,) = hidden

    def _called(self, what: str, layer: int) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            call = _Call(layer, args[0], output, args[0].clone(), output.clone())
            self.calls[what].append(call)

        return hook


def _check_head(lm: LanguageModel, trial: _Trial) -> None:
    """The head of final hidden states gives the model's own logits."""
    _compare(lm, lm.architecture.head(trial.hidden), trial.logits, "Logits")


def _check_projections(lm: LanguageModel, trial: _Trial) -> None:
    """Each layer has output projections of its own, and hooks see what they put out."""
    parts = lm.architecture
    for what, module_of in (("MLP", parts.mlp_output), ("attention", parts.attention_output)):
        _check_calls(what, [call.layer for call in trial.calls[what]], parts.layers)
        own = {parts.identity(module_of(layer)) for layer in range(parts.layers)}
        if len(own) < parts.layers:
            raise _BrokenError(f"Layers share the weights of their {what}'s output projection.")
        for call in trial.calls[what]:
            _check_call(lm, what, call)


def _check_calls(what: str, called: list[int], layers: int) -> None:
    for layer in range(layers):
        if (times := called.count(layer)) != 1:
            why = "layers of the model share it" if times > 1 else "it is computed elsewhere"
            raise _BrokenError(
                f"The {what}'s output projection of layer {layer} is run {times} times in one "
                f"pass: {why}."
            )
    if called != sorted(called):
        raise _BrokenError("The blocks are not run in their order.")


def _check_call(lm: LanguageModel, what: str, call: _Call) -> None:
    where = f"of the {what}'s output projection of layer {call.layer}"
    if call.output.shape != (2, _LONG, lm.architecture.d_model) or call.given.shape[:2] != (
        2,
        _LONG,
    ):
        raise _BrokenError(
            f"The input or output {where} has no place for each token of each row: shapes "
            f"{tuple(call.given.shape)} and {tuple(call.output.shape)}."
        )
    for part, now, then in (
        ("input", call.given, call.given_then),
        ("output", call.output, call.output_then),
    ):
        if not torch.equal(now, then):
            raise _BrokenError(
                f"The {part} {where} is changed in place after it was computed, so that what is "
                "recorded is something else."
            )
    if what == "MLP":
        bias = lm.architecture.bias(call.layer)
        expected = call.given @ lm.architecture.values(call.layer)
        expected = expected if bias is None else expected + bias
        _compare(lm, call.output, expected, f"The output {where} and W a + b")


def _check_sums(lm: LanguageModel, trial: _Trial) -> None:
    """A block puts out the sum of its MLP's output and what does not depend on it."""
    layers = lm.architecture.layers
    for layer in sorted({0, layers // 2, layers - 1}):
        output = trial.calls["MLP"][layer].output
        rest = trial.sums[layer] - lm.architecture.added(layer, output)
        silent = lm.architecture.added(layer, torch.zeros_like(output))
        expected = lm.architecture.from_sum(layer, rest + silent)
        off = float((_silenced(lm, trial, layer) - expected).abs().max() / expected.abs().max())
        if not off <= max(1e-4, 8 * torch.finfo(expected.dtype).eps):
            raise _BrokenError(
                f"Without its MLP's output block {layer} gives something else by {off:.2g}: "
                "post_norm, output_norm or factor is wrong, or something else comes before the sum."
            )


class _Seen(BaseException):
    """Ends a pass once a block's output is known."""


def _silenced(lm: LanguageModel, trial: _Trial, layer: int) -> Tensor:
    """The block's output where its MLP puts out nothing."""
    found: list[Tensor] = []

    def stop(_module: nn.Module, _args: Any, output: Any) -> None:
        found.append(first_of(output))
        raise _Seen

    with Hooks() as hooks, suppress(_Seen):
        mlp, block = lm.architecture.mlp_output(layer), lm.architecture.blocks[layer]
        hooks.on_output(mlp, lambda _m, _args, output: torch.zeros_like(output))
        hooks.on_output(block, stop)
        lm.hidden(lm.batch([trial.long, trial.short]))
    return found[0]


def _check_batches(lm: LanguageModel, trial: _Trial) -> None:
    """A row gives in a padded batch what it gives alone."""
    alone = lm.hidden(lm.batch([trial.short]))[0]
    _compare(lm, trial.hidden[1, :_SHORT], alone, "Final hidden states")


def _check_cache(lm: LanguageModel, trial: _Trial) -> None:
    """A row gives behind a cache of its first tokens what it gives whole."""
    if lm.kind != "causal":
        return
    # Neither prompts nor what follows them are equally long, so that both are padded.
    cuts = ((trial.long, 5, _LONG), (trial.short, 2, _SHORT - 1))
    trunks = Trunks(lm, [(row[:cut], None) for row, cut, _ in cuts], lambda _edits: nullcontext())
    rests = [(n, row[cut:stop]) for n, (row, cut, stop) in enumerate(cuts)]
    for n, found in enumerate(trunks.after(rests)):
        _, cut, stop = cuts[n]
        whole = lm.predicted(trial.hidden[n, cut:stop])
        _compare(lm, found, whole, "Log-probabilities")


def _check_pre_activation(lm: LanguageModel, trial: _Trial) -> None:
    """The activation function reads what pre_activation puts out."""
    parts = lm.architecture
    if parts.pre_activation(0) is None:
        return
    seen: dict[int, Tensor] = {}

    def changed(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        if output.shape[-1] != parts.pre_activation_width:
            raise _BrokenError(f"It puts out {output.shape[-1]} numbers.")
        output = output.clone()
        output[0, :, : parts.d_ff] *= -1
        output[1, :, : parts.d_ff] = 0
        return output

    def keep(layer: int) -> Callable[..., None]:
        return lambda _module, args: seen.__setitem__(layer, args[0])

    with Hooks() as hooks:
        for layer in range(parts.layers):
            module = parts.pre_activation(layer)
            assert module is not None
            hooks.on_output(module, changed)
            hooks.on_input(parts.mlp_output(layer), keep(layer))
        lm.hidden(lm.batch([trial.long, trial.short]))
    if any(bool(neurons[1].any()) for neurons in seen.values()):
        raise _BrokenError("Where it is 0 there are neurons that are not.")
    # What an activation only multiplies changes its sign.
    if _apart(seen[0][0], -trial.calls["MLP"][0].given[0]) < _MULTIPLIED:
        raise _BrokenError("Its negative gives the negative neurons, as what is multiplied does.")


def _check_rewriting(lm: LanguageModel, trial: _Trial) -> None:
    """What runs in another way gives what it gives as transformers has it."""
    if lm.architecture.rewritten:
        with as_written(lm.architecture.rewritten):
            batch = lm.batch([trial.long, trial.short])
            logits = lm.model(input_ids=batch.ids, attention_mask=batch.mask).logits
        _compare(lm, trial.logits, logits, "Logits")


_LAWS = (
    *(_check_rewriting, _check_head, _check_projections, _check_sums),
    *(_check_pre_activation, _check_batches, _check_cache),
)


def _try_steps(lm: LanguageModel, trial: _Trial) -> None:
    """Raise anything unless stepping gives the model's own final hidden states."""
    if lm.kind == "causal":
        spans = [Span(trial.long, 3, _LONG - 3, 3), Span(trial.short, 1, _SHORT - 1, 1)]
    else:
        spans = [Span(trial.long, 3, _LONG, 3), Span(trial.short, 1, _SHORT, 2)]
    recording = Recording(lm, spans, range(lm.architecture.layers))
    middle = lm.architecture.layers // 2
    everyone = torch.arange(len(spans), device=lm.device)
    join = {middle: Join(everyone, recording.sums[middle])}
    hidden = Pass(lm, recording, join, [0, 1]).hidden()
    for n, row in enumerate(hidden):
        span = spans[n % 2]
        causal = lm.kind == "causal"
        first, size = (span.first, span.size) if causal else (span.read, 1)
        own = trial.hidden[n % 2, first : first + size]
        _compare(lm, row[:size], own, "final hidden states of stepped and whole rows")
