"""Drawing the figures of a sweep when it is over: the callback of the presets in conf/experiment.

The command itself is `analysis/figures.py`.
"""

from __future__ import annotations

from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from kn_sweeps.commands.console import say
from kn_sweeps.records.folders import sweep_folder
from kn_sweeps.records.places import analysis


class Draw(Callback):
    """Draw when a sweep is over."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Draw what the finished runs have the numbers for, once they are finished."""
        sweep = sweep_folder(config.results_dir, config.sweep)
        submitted = config.hydra.runtime.choices["hydra/launcher"] not in ("local", "processes")
        if config.dry_run:
            return
        if submitted and not config.wait:
            say(f"figures, when the runs are done: kn-sweeps figures {sweep}")
        else:
            analysis("figures").main([str(sweep)])
