"""Second moments of an MLP's keys over running text, for ROME, MEMIT and AlphaEdit.

    C = E[k k^T],   k the neurons of one layer at one token

Texts are streamed in batches; sums are kept in float64, every other text in another half, so that
the halves tell how far the estimate has converged. What was summed is saved every `_SAVE_EVERY`
texts, and an interrupted computation goes on from there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from kn_sweeps.data.texts import fetch_texts, texts_fingerprint, texts_of
from kn_sweeps.editing.shared_moments import shared_files, shared_sums
from kn_sweeps.interventions import recorded
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.progress.counting import counting
from kn_sweeps.progress.saving import kept
from kn_sweeps.records.cache import cache_directory
from kn_sweeps.records.integrity import load_tensors, save_tensors, unless_damaged

log = logging.getLogger(__name__)

_SAVE_EVERY = 2000
VERSION = 1
"""Part of every key; raise it when the same source would give another matrix."""


@dataclass(frozen=True)
class TextSource:
    """Running text.

    Attributes:
        name: `bundled` (the project's own sentences), a text file or a folder of them (one text
            a line), or a dataset of the hub as `NAME`, `NAME:CONFIG` or
            `NAME:CONFIG@REVISION`, with a column `text`; or what was summed over texts before: a
            file, or a folder of files, as in `shared_moments`.
        samples: Texts read; null for all.
        max_tokens: Longer texts are cut.
    """

    name: str
    samples: int | None = 100_000
    max_tokens: int = 512

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        if self.samples is not None and self.samples < 2:
            raise ValueError(f"samples must be 2 or more, or null for all; got {self.samples}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be 1 or more, got {self.max_tokens}")

    def fetch(self) -> None:
        """Have the texts on this machine.

        Raises:
            ValueError: If they cannot be had.
        """
        fetch_texts(self.name, self.samples)


@dataclass(frozen=True)
class SecondMoment:
    """An estimate of C.

    Attributes:
        layer: Whose keys.
        matrix: C, in float64 on the CPU.
        tokens: Keys averaged.
        split_half: |C1 - C2| / |C| (Frobenius) of the two halves of the texts: how far the
            estimate has converged. The error of C itself is about half of it. NaN of sums that
            are not in halves.
    """

    layer: int
    matrix: Float[Tensor, "d_ff d_ff"]
    tokens: int
    split_half: float

    @cached_property
    def _factor(self) -> Float[Tensor, "d_ff d_ff"]:
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(self.matrix)
        spread = factor.diagonal()
        # A pivot that is nothing but rounding: the matrix is singular though Cholesky went on.
        floor = 1e-7 * float(spread.max()) if len(spread) else 0.0
        if int(failed) or not float(spread.min()) > floor:
            raise ValueError(
                f"the second moment of layer {self.layer} is not positive definite: {self.tokens} "
                f"tokens for {len(self.matrix)} neurons; give it more text (second_moment.samples)"
            )
        return factor

    @cached_property
    def eigen(self) -> tuple[Float[Tensor, " d_ff"], Float[Tensor, "d_ff d_ff"]]:
        """Its eigenvalues, ascending, and their eigenvectors as columns."""
        values, vectors = torch.linalg.eigh(self.matrix)
        return values, vectors

    def solved(self, keys: Float[Tensor, "*keys d_ff"]) -> Float[Tensor, "*keys d_ff"]:
        """C^-1 k for every key.

        Raises:
            ValueError: If C is not positive definite.
        """
        columns = keys.double().cpu().reshape(-1, keys.shape[-1]).T
        found = torch.cholesky_solve(columns, self._factor).T.reshape(keys.shape)
        return found.to(keys.device, keys.dtype)


_AT_HAND: WeakKeyDictionary[LanguageModel, tuple[object, list[SecondMoment]]] = WeakKeyDictionary()


def moments_at_hand(
    lm: LanguageModel, layers: Sequence[int], source: TextSource
) -> list[SecondMoment]:
    """As `second_moments`; a model's last ones stay in memory, with what was made of them.

    Every step of a sequence needs them.
    """
    asked = (lm.revision, tuple(layers), source)
    if lm not in _AT_HAND or _AT_HAND[lm][0] != asked:
        _AT_HAND[lm] = (asked, second_moments(lm, layers, source))
    return _AT_HAND[lm][1]


def needed(layers: int, d_ff: int) -> int:
    """Bytes for the second moments of some layers, while the last of them are made of their sums.

    Two halves, what they make and its factor, and of one layer what tells how far halves agree.
    """
    return 8 * d_ff**2 * (3 * layers + 2)


def second_moments(
    lm: LanguageModel, layers: Sequence[int], source: TextSource
) -> list[SecondMoment]:
    """The second moments of some layers, computed together where the cache does not have them.

    Raises:
        ValueError: If a layer does not exist, the text cannot be read, or the model is edited.
    """
    for layer in layers:
        lm.architecture.check_layer(layer)
    known: dict[int, _Sums | None]
    if files := shared_files(source.name):
        known = {layer: _Sums(*shared_sums(lm, layer, files), 0, done=True) for layer in layers}
    else:
        known = {layer: _load(lm, layer, source) for layer in layers}
    missing = [layer for layer, moment in known.items() if moment is None or not moment.done]
    if missing:
        if lm.is_edited:
            raise ValueError("second moments are those of the unedited model")
        known |= _computed(lm, missing, source)
    found = [_moment(layer, known[layer]) for layer in layers]
    for moment in found:
        if moment.layer in missing:
            log.info(
                "second moment of layer %d: %d tokens; its halves differ by %.1f %%",
                moment.layer,
                moment.tokens,
                100 * moment.split_half,
            )
        if moment.tokens < len(moment.matrix):
            raise ValueError(
                f"the second moment of layer {moment.layer} cannot be positive definite: "
                f"{moment.tokens} tokens for {len(moment.matrix)} neurons; give it more text "
                "(second_moment.samples)"
            )
    return found


@dataclass
class _Sums:
    """What has been summed so far, in two halves; in one where others summed it."""

    halves: Float[Tensor, "halves d_ff d_ff"]
    tokens: Float[Tensor, " halves"]
    texts: int
    done: bool


def _computed(lm: LanguageModel, layers: Sequence[int], source: TextSource) -> dict[int, _Sums]:
    """Sum over the texts, from where the least advanced layer stopped."""
    kept = {layer: _load(lm, layer, source) for layer in layers}
    starts = {0 if one is None else one.texts for one in kept.values()}
    d_ff = lm.architecture.d_ff
    sums: dict[int, _Sums] = {}
    for layer, one in kept.items():
        # Layers are read together; one that is ahead of another starts again with it.
        if one is None or len(starts) > 1:
            one = _Sums(
                torch.zeros(2, d_ff, d_ff, dtype=torch.float64),
                torch.zeros(2, dtype=torch.float64),
                0,
                done=False,
            )
        sums[layer] = one
    start = next(iter(sums.values())).texts
    log.info("second moments of layers %s over %s", list(layers), source.name)
    texts = itertools.islice(texts_of(source.name, source.samples), start, None)
    wanted = None if source.samples is None else source.samples - start
    with counting("text", wanted) as tell:
        read = start
        for chunk in _chunks(texts, lm.batch_size):
            tell(read - start)
            _add(lm, chunk, source.max_tokens, sums)
            read = next(iter(sums.values())).texts
            if read // _SAVE_EVERY > (read - len(chunk)) // _SAVE_EVERY:
                _save_all(lm, source, sums)
    for one in sums.values():
        one.done = True
    _save_all(lm, source, sums)
    return sums


@torch.no_grad()
def _add(lm: LanguageModel, texts: Sequence[str], max_tokens: int, sums: dict[int, _Sums]) -> None:
    """Add the keys of some texts."""
    limit = lm.architecture.max_tokens or max_tokens
    encoded = lm.tokenizer(
        list(texts), truncation=True, max_length=min(limit, max_tokens), return_attention_mask=False
    )["input_ids"]
    rows = [tuple(ids) for ids in encoded]
    first = next(iter(sums.values())).texts
    half = torch.tensor([(first + n) % 2 for n in range(len(rows))], device=lm.device)
    wanted = [n for n, row in enumerate(rows) if row]
    if wanted:
        batch = lm.batch([rows[n] for n in wanted])
        with recorded(lm, list(sums)) as seen:
            lm.hidden(batch)
        for layer, one in sums.items():
            for which in (0, 1):
                there = batch.mask.bool() & (half[wanted] == which)[:, None]
                keys = seen[layer][0][there]
                # Products in single precision or better, sums over batches in double.
                keys = keys.to(torch.promote_types(keys.dtype, torch.float32))
                one.halves[which] += (keys.T @ keys).double().cpu()
                one.tokens[which] += len(keys)
    for one in sums.values():
        one.texts += len(texts)


def _chunks(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    while chunk := list(itertools.islice(texts, size)):
        yield chunk


def _moment(layer: int, sums: _Sums | None) -> SecondMoment:
    assert sums is not None
    tokens = float(sums.tokens.sum())
    matrix = sums.halves.sum(0) / max(tokens, 1)
    each = sums.halves / sums.tokens.clamp(min=1)[:, None, None]
    apart = float((each[0] - each[-1]).norm() / matrix.norm().clamp(min=1e-300))
    if len(each) == 1:
        apart = math.nan
    return SecondMoment(layer, matrix, int(tokens), apart)


def _path(lm: LanguageModel, layer: int, source: TextSource) -> Path:
    about = [VERSION, lm.name, lm.revision, str(lm.model.dtype), layer, asdict(source)]
    about.append(texts_fingerprint(source.name))
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    return cache_directory("second_moments") / f"{lm.name}-{layer}-{key}.safetensors"


def _load(lm: LanguageModel, layer: int, source: TextSource) -> _Sums | None:
    """What was summed before; None if nothing, or what is damaged and was moved aside."""
    path = _path(lm, layer, source)
    found = unless_damaged(partial(load_tensors, path), "it is summed again from the first text")
    if found is None:
        return None
    tensors, about = found
    return _Sums(tensors["halves"], tensors["tokens"], about["texts"], about["done"])


def _save_all(lm: LanguageModel, source: TextSource, sums: dict[int, _Sums]) -> None:
    for layer, one in sums.items():
        path = _path(lm, layer, source)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"halves": one.halves, "tokens": one.tokens}
        about = {
            "model": lm.name,
            "revision": lm.revision,
            "dtype": str(lm.model.dtype),
            "layer": layer,
            "source": asdict(source),
            "texts": one.texts,
            "done": one.done,
        }
        save_tensors(path, tensors, about)
    kept()
