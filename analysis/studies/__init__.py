"""The paper's studies: runs in, drawings out. Each draws where the runs have what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ..runs import Run
from . import (
    categorical,
    causal_tracing,
    cooccurrence,
    criteria,
    determiner_neurons,
    generalisation,
    layers,
    lifelong,
    localisation,
    locating,
    paths,
    rome_syntax,
    suppress_number_neuron,
)
from .drawing import Drawing

Study = Callable[[Sequence[Run]], Iterator[Drawing]]

STUDIES: tuple[Study, ...] = (
    layers.study,
    determiner_neurons.study,
    suppress_number_neuron.study,
    cooccurrence.study,
    localisation.study,
    categorical.study,
    causal_tracing.study,
    locating.study,
    paths.study,
    rome_syntax.study,
    criteria.symmetry,
    criteria.synonymy,
    generalisation.study,
    lifelong.study,
)
