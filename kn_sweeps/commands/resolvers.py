"""What the configs of conf/ ask Python for: `${sweep_folder:...}` and its like."""

from __future__ import annotations

from omegaconf import OmegaConf

from kn_sweeps.data.base import answer_tokens_for, limit_for
from kn_sweeps.data.sources import source_for
from kn_sweeps.models.pretrained import label_of, layers_of
from kn_sweeps.records.folders import sweep_folder


def register_resolvers() -> None:
    """Let OmegaConf know them; whoever composes a config calls this first."""
    for name, found in {
        # Asked before anything is written, for Hydra makes the folder that it gives.
        "sweep_folder": lambda *place: str(sweep_folder(*map(str, place))),
        # What conf/model/checkpoint.yaml tells of a folder or hub id.
        "checkpoint_label": lambda name: label_of(str(name)),
        "checkpoint_layers": lambda name: layers_of(str(name)),
        # Where a model's data are.
        "source_for": source_for,
        # How much of a data set is asked.
        "limit_for": limit_for,
        "answer_tokens_for": answer_tokens_for,
    }.items():
        OmegaConf.register_new_resolver(name, found, replace=True)
