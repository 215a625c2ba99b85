"""The command line: Hydra composes a config, `run` does the rest.

User mistakes end in one message with the valid choices; the traceback of anything that happened
inside a run is in its run.log. Composing and naming takes no model library, whose import takes
seconds: what needs one is imported where it is used.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from kn_sweeps.commands.answers import answers
from kn_sweeps.commands.console import ToldError, called, command, explained
from kn_sweeps.commands.explaining import explain
from kn_sweeps.commands.resolvers import register_resolvers
from kn_sweeps.garbage import importing
from kn_sweeps.progress.interruption import listening
from kn_sweeps.records.files import user_path
from kn_sweeps.records.places import CONF, find_in_checkout
from kn_sweeps.records.provenance import commit
from kn_sweeps.sweeps.record import LauncherKind
from kn_sweeps.threads import wait_passively

if TYPE_CHECKING:
    from kn_sweeps.sweeps.launch import Ended, Launcher
    from kn_sweeps.sweeps.plan import LaunchConfig

log = logging.getLogger("kn_sweeps")
_OTHERWISE = {"launch": "python launch.py", "table": "python -m analysis.table"}
# For the help text of conf/config.yaml, which names commands as they were called.
register_resolvers()
OmegaConf.register_new_resolver("called", lambda one: called(one, _OTHERWISE[one]), replace=True)

Value = float | list[float] | str
"""What a run returns to Hydra: its objective, or its directory where none is asked for."""


_explained = partial(explained, explain, lambda text: log.error("error: %s", text))


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def _launch(config: DictConfig) -> Value:
    """Do one composed run."""
    try:
        with _explained():
            return _one(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except ToldError:
        sys.exit(1)  # an exception would make Hydra say that there was one


def _one(resolved: Any) -> Value:
    from kn_sweeps.config import pinned, without_models
    from kn_sweeps.records.summary import objective
    from kn_sweeps.sweeps.launch import launch
    from kn_sweeps.sweeps.submit import Local

    chosen = HydraConfig.get()
    launcher = chosen.runtime.choices["hydra/launcher"]
    options, own = split({str(key): value for key, value in resolved.items()})
    if options.dry_run:
        launch([(named(chosen.overrides.task), own)], Local(), options)
        if "path" in own["dataset"]:
            _show_cases(own)
        return ""
    if launcher != "local" or options.shards > 1:
        raise ValueError(
            f"{'shards' if options.shards > 1 else f'hydra/launcher={launcher}'} takes effect "
            f"with -m: {called('launch', _OTHERWISE['launch'])} -m ..."
        )
    # A mistake, or a model or data that are not there, is told before model libraries are imported.
    light = without_models(own)
    own["model"], _ = pinned(own["model"], light.model)
    own["dataset"], _ = pinned(own["dataset"], light.dataset)
    with importing():
        from kn_sweeps.run import run

    outcome = run(own, name=named(chosen.overrides.task))
    if "path" in own["dataset"]:
        log.info("%s", answers(outcome.directory).text())
    if options.objective is None:
        return str(outcome.directory)
    return objective(outcome.summary, options.objective)


def _show_cases(config: Mapping[str, Any]) -> None:
    """The first cases of a file of one's own, as they will be asked."""
    from kn_sweeps.config import RunConfig, build
    from kn_sweeps.evaluation.preview import preview

    for line in preview(build(config, RunConfig)):
        log.info("%s", line)


def named(overrides: Iterable[str]) -> str:
    """A run's name: its overrides, but for those that cannot change its rows."""
    from kn_sweeps.config import CANNOT_CHANGE_ROWS
    from kn_sweeps.sweeps.plan import LAUNCH_KEYS

    unnamed = {*CANNOT_CHANGE_ROWS, *LAUNCH_KEYS}
    return " ".join(one for one in overrides if one.split("=")[0] not in unnamed)


def launch_composed(
    composed: Sequence[tuple[str, Mapping[str, Any]]],
    kind: LauncherKind | Literal["prefetch"],
    settings: Mapping[str, Any],
    sweeper: str | None = None,
) -> list[Value | ToldError]:
    """Launch the runs of a sweep; a failure is reported at once.

    Args:
        composed: Overrides, and the config they compose to, resolved, of every run.
        kind: The launcher.
        settings: That launcher's.
        sweeper: The sweeper, if it decides by results what to try next: they are waited for.

    Returns:
        What every run returns, or that it failed.

    Raises:
        ToldError: If something fails that a message can explain and that is no run's own failure.
        SystemExit: Where such a sweeper gets no results because none are made.
    """
    from kn_sweeps.config import build
    from kn_sweeps.sweeps.launch import LAUNCHERS, SweepFailedError, launch
    from kn_sweeps.sweeps.plan import LAUNCH_KEYS
    from kn_sweeps.sweeps.prefetch import prefetch

    with _explained():
        parts = [(name, *split(config)) for name, config in composed]
        own = [(name, config) for name, _, config in parts]
        options = list({repr(one): one for _, one, _ in parts}.values())
        if len(options) > 1:
            raise ValueError(
                f"{', '.join(LAUNCH_KEYS)} are those of the whole launch and cannot be swept over"
            )
        how = _with_results(options[0], sweeper) if sweeper else options[0]
        if kind == "prefetch":
            prefetch([config for _, config in own])
            ended = []
        else:
            launcher: Launcher = build(settings, LAUNCHERS[kind], "hydra.launcher")
            try:
                ended = launch(own, launcher, how)
            except SweepFailedError as error:
                log.error("error: %s", error)
                ended = error.ended
        if sweeper and not ended:
            log.info("what %s tries next depends on results, and none are made here", sweeper)
            sys.exit(0)
        return [_returned(one, how) for one in ended]


def _with_results(options: LaunchConfig, sweeper: str) -> LaunchConfig:
    """The options with which a sweeper gets what it decides by.

    Raises:
        ValueError: If it cannot get it.
    """
    if options.objective is None:
        raise ValueError(
            f"hydra/sweeper={sweeper} decides by what a run measured: say objective=METRIC, such "
            "as objective=reliability or objective=-effect_size; a list makes several objectives"
        )
    return dataclasses.replace(options, wait=True)


def _returned(ended: Ended, options: LaunchConfig) -> Value | ToldError:
    """What a run returns; what could not be is told."""
    from kn_sweeps.records.run_directory import RunDirectory
    from kn_sweeps.records.summary import objective

    if ended.error is not None:
        return ToldError(f"run {ended.directory.name} failed")
    if options.objective is None:
        return str(ended.directory)
    directory = RunDirectory(ended.directory)
    if not directory.done():
        return ToldError(f"run {ended.directory.name} is not finished")
    try:
        with _explained():
            return objective(directory.summary(), options.objective)
    except ToldError:
        return ToldError(f"run {ended.directory.name} does not have the objective")


def split(config: Mapping[str, Any]) -> tuple[LaunchConfig, dict[str, Any]]:
    """How to launch, and a run's own config, in which `~` is the home directory.

    What `compat` says counts where methods and metrics have taken it.
    """
    from kn_sweeps.config import at_home, build
    from kn_sweeps.sweeps.plan import LAUNCH_KEYS, LaunchConfig

    options = build({k: v for k, v in config.items() if k in LAUNCH_KEYS}, LaunchConfig)
    left = {*LAUNCH_KEYS, "compat"}
    return options, at_home({k: v for k, v in config.items() if k not in left})


def _at_home(argument: str) -> str:
    """An override with `~` spelled out, which Hydra's grammar does not take; config files can."""
    return re.sub(r"(?<=[=,\[])~[^,\]]*", lambda found: str(user_path(found[0])), argument)


def of_each_run(arguments: Sequence[str]) -> list[str]:
    """Overrides, with `method.layer=3` as `method.layer=choice(3)` where `method` is swept.

    Before it composes the runs, Hydra composes a config without what is swept: with the usual
    method, which need not have that key. What is swept it leaves to the runs.
    """
    parsed = [_parsed(one) for one in arguments]
    swept = [
        f"{one.package or one.key_or_group.replace('/', '.')}."
        for one in parsed
        if one is not None and one.is_sweep_override()
    ]
    return [
        re.sub("=(.+)", r"=choice(\1)", text, count=1, flags=re.DOTALL)
        if one is not None
        and not one.is_sweep_override()
        and not one.is_delete()
        and one.key_or_group.startswith(tuple(swept))
        else text
        for text, one in zip(arguments, parsed, strict=True)
    ]


def _parsed(argument: str) -> Override | None:
    """An override; None for an option, and for what Hydra says itself is none."""
    if argument.startswith("-"):
        return None
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


@command(explain, "interrupted; the same command continues")
def main(arguments: Sequence[str] | None = None) -> None:
    """Do what an override each says, and Hydra's own options."""
    wait_passively()
    commit()  # that of the code this process runs, whatever becomes of the files from here on
    # Hydra would print its own tracebacks and hints; with this it lets errors through to here.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    find_in_checkout()
    given = sys.argv[1:] if arguments is None else arguments
    sys.argv[1:] = of_each_run([_at_home(one) for one in given])
    with listening():
        _launch()
