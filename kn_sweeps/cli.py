"""The command line: Hydra composes a config, `run` does the rest.

User mistakes end in one message with the valid choices; the traceback of anything that happened
inside a run is in its run.log.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any, Literal

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kn_sweeps.config import build
from kn_sweeps.files import about_files
from kn_sweeps.interruption import Interrupted, listening
from kn_sweeps.prefetch import prefetch
from kn_sweeps.run import run
from kn_sweeps.sweeps.launches import Kind
from kn_sweeps.sweeps.launching import LAUNCHERS, launch
from kn_sweeps.sweeps.plan import LAUNCH_KEYS, LaunchConfig
from kn_sweeps.sweeps.submit import Local

log = logging.getLogger("kn_sweeps")
CONF = Path(__file__).resolve().parent.parent / "conf"


class RunFailed(HydraException):
    """A run's failure, already put into words."""


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def _launch(config: DictConfig) -> str:
    """Do one composed run."""
    resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    launcher = HydraConfig.get().runtime.choices["hydra/launcher"]
    with _explained():
        options, own = split({str(key): value for key, value in resolved.items()})
        if options.dry_run:
            given = (one for one in HydraConfig.get().overrides.task if "dry_run=" not in one)
            launch([(" ".join(given), own)], Local(), options)
            return ""
        if launcher != "local" or options.shards > 1:
            raise ValueError(
                f"{'shards' if options.shards > 1 else f'hydra/launcher={launcher}'} takes effect "
                "with -m: python launch.py -m ..."
            )
        return str(run(own).directory)


def launch_composed(
    composed: Sequence[tuple[str, Mapping[str, Any]]],
    kind: Kind | Literal["prefetch"],
    settings: Mapping[str, Any],
) -> None:
    """Launch the runs of a sweep; a failure is reported at once.

    Args:
        composed: Overrides, and the config they compose to, resolved, of every run.
        kind: The launcher.
        settings: That launcher's.

    Raises:
        RunFailed: If something fails that a message can explain.
    """
    with _explained():
        parts = [(name, *split(config)) for name, config in composed]
        own = [(name, config) for name, _, config in parts]
        if kind == "prefetch":
            prefetch([config for _, config in own])
            return
        options = {repr(one): one for _, one, _ in parts}
        if len(options) > 1:
            raise ValueError(
                f"{', '.join(LAUNCH_KEYS)} are those of the whole launch and cannot be swept over"
            )
        launch(own, build(settings, LAUNCHERS[kind], "hydra.launcher"), *options.values())


def split(config: Mapping[str, Any]) -> tuple[LaunchConfig, dict[str, Any]]:
    """How to launch, and a run's own config."""
    options = build({k: v for k, v in config.items() if k in LAUNCH_KEYS}, LaunchConfig)
    return options, {k: v for k, v in config.items() if k not in LAUNCH_KEYS}


@contextmanager
def _explained() -> Iterator[None]:
    """Report what a message can explain."""
    try:
        yield
    except (ValueError, OSError) as error:
        message = about_files(error) if isinstance(error, OSError) else str(error)
        log.error("error: %s", message)
        raise RunFailed(message) from error


def main() -> None:
    """Run the command line; exit with 1 after a failure."""
    # Hydra would print its own tracebacks and hints; with this it lets errors through to here.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with listening():
            _launch()
    except RunFailed:
        sys.exit(1)
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"error: {about_files(error)}", file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, Interrupted) as error:
        print("interrupted; the same command continues", file=sys.stderr)
        sys.exit(128 + (SIGTERM if isinstance(error, Interrupted) else SIGINT))


def explain(error: BaseException) -> str:
    """The message of a config error, with the valid keys where one was mistyped."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    message = str(error).strip()
    parent = getattr(cause, "parent_node", None)
    key = getattr(cause, "key", None)
    if isinstance(parent, Mapping) and key is not None and key not in parent:
        keys = [str(k) for k in parent if k not in ("_target_", "hydra")]
        near = get_close_matches(str(key), keys, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        place = getattr(cause, "full_key", None) or key
        return f"unknown key {place}{hint}; choose from {', '.join(keys)}"
    if (group := re.search(r"Could not load '(\w+)/\w+'", message)) is not None:
        choices = sorted(path.stem for path in (CONF / group[1]).glob("*.yaml"))
        return f"{message.splitlines()[0]} Choose from {', '.join(choices)}"
    # Hydra lists the choices and then where it searched, which is always conf/.
    return message.split("\nConfig search path:")[0]
