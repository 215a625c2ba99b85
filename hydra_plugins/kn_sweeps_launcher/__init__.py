"""Hydra's side of `kn_sweeps.sweeps`: configs are composed here, and planned and executed there.

Hydra imports this whenever it starts, so what is heavy is imported when it is used.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf, open_dict
from typing_extensions import override

from kn_sweeps.commands.resolvers import register_resolvers
from kn_sweeps.sweeps.record import LauncherKind

register_resolvers()


class Sweeper(BasicSweeper):
    """Hydra's own, which would compose every config once more to see whether it can be."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing: the launcher composes and validates every config before anything runs."""


class SweepLauncher(Launcher):
    """Composes every config and hands them over; see the subclasses."""

    kind: ClassVar[LauncherKind | Literal["prefetch"]]

    def __init__(self, **settings: Any) -> None:
        """Take the settings of `conf/hydra/launcher`; they are checked when used."""
        self._settings = {
            key: OmegaConf.to_container(value, resolve=True)
            if OmegaConf.is_config(value)
            else value
            for key, value in settings.items()
        }

    @override
    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra composed so far."""
        self._loader, self._config = hydra_context.config_loader, config

    @override
    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Launch the runs and say what became of each."""
        from kn_sweeps.commands.launch import launch_composed

        configure_log(self._config.hydra.job_logging, self._config.hydra.verbose)
        configs = composed(self._loader, self._config, job_overrides)
        asking = _asking_sweeper(self._config)
        values = launch_composed(list(configs), self.kind, self._settings, asking)
        return [_Return.of(*one) for one in zip(job_overrides, values, strict=False)]


@dataclass
class _Return(JobReturn):
    """What became of a run; Hydra's own says on stderr that it failed, which was told."""

    @property
    def return_value(self) -> Any:
        """What the run returns; raises what it failed of."""
        if self.status is JobStatus.FAILED:
            raise self._return_value
        return self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value

    @classmethod
    def of(cls, overrides: Sequence[str], value: Any) -> _Return:
        """That of a run with these overrides."""
        status = JobStatus.FAILED if isinstance(value, Exception) else JobStatus.COMPLETED
        return cls(overrides=overrides, status=status, _return_value=value)


def _asking_sweeper(config: DictConfig) -> str | None:
    """The sweeper's name, if it decides by results what to try next: not Hydra's own or ours."""
    if issubclass(get_class(config.hydra.sweeper._target_), BasicSweeper):
        return None
    return str(config.hydra.runtime.choices["hydra/sweeper"])


class LocalLauncher(SweepLauncher):
    """One run after the other, in this process."""

    kind = "local"


class ProcessesLauncher(SweepLauncher):
    """Processes of this machine."""

    kind = "processes"


class SlurmLauncher(SweepLauncher):
    """Job arrays."""

    kind = "slurm"


class PrefetchLauncher(SweepLauncher):
    """Fetches what the runs need and does none; `kn-sweeps prefetch`."""

    kind = "prefetch"


def composed(
    loader: ConfigLoader, master: DictConfig, job_overrides: Sequence[Sequence[str]]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The overrides of every run that can change its rows, and its config, resolved."""
    from kn_sweeps.commands.launch import named

    composer = Composer(loader, master)
    for overrides in job_overrides:
        yield named(overrides), composer.config(overrides)


class Composer:
    """Many runs' configs.

    Hydra's composition takes some 50 ms, most of it spent on which files to read. That depends on
    the chosen groups only, so it is done once for each choice; values are set on a copy.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        """Take Hydra's loader, and what it composed of the overrides that all runs share."""
        parser = OverridesParser.create(config_loader=loader)

        @functools.cache
        def parsed(override: str) -> Override:
            (one,) = parser.parse_overrides([override])
            return one

        @functools.cache
        def is_group(key: str) -> bool:
            return bool(loader.list_groups(key) or loader.get_group_options(key))

        @functools.cache
        def base(choices: tuple[str, ...]) -> DictConfig:
            config = loader.load_sweep_config(master, list(choices))
            with open_dict(config):
                del config["hydra"]
            return config

        self._parsed, self._is_group, self._base = parsed, is_group, base

    def config(self, overrides: Sequence[str]) -> dict[str, Any]:
        """A run's config, resolved."""
        choices: list[str] = []
        values: list[Override] = []
        for text in overrides:
            one = self._parsed(text)
            if one.package is not None or self._is_group(one.key_or_group):
                choices.append(text)
            else:
                values.append(one)
        config = copy.deepcopy(self._base(tuple(choices)))
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        assert isinstance(resolved, dict)
        return {str(key): value for key, value in resolved.items()}
