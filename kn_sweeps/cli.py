"""The command line: Hydra composes a config, `run` does the rest.

User mistakes end in one message with the valid choices; the traceback of anything that happened
inside a run is in its run.log.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kn_sweeps.run import Outcome, run

log = logging.getLogger("kn_sweeps")
CONF = Path(__file__).resolve().parent.parent / "conf"


class RunFailed(HydraException):
    """A run's failure, already put into words."""


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def _launch(config: DictConfig) -> str:
    """Do one composed run."""
    return str(run_composed(config).directory)


def run_composed(config: DictConfig) -> Outcome:
    """Resolve a composed config and run it; a failure is reported at once.

    Raises:
        RunFailed: If it fails for a reason a message can explain.
    """
    resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    try:
        return run({str(key): value for key, value in resolved.items()})
    except (ValueError, OSError) as error:
        message = _about_files(error) if isinstance(error, OSError) else str(error)
        log.error("error: %s%s", message, _which_run())
        raise RunFailed(message) from error


def _about_files(error: OSError) -> str:
    place = f" ({error.filename})" if error.filename else ""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
    hint = ". Finished chunks are kept; the same command continues the run" if full else ""
    return f"{error.strerror or error}{place}{hint}"


def _which_run() -> str:
    """The overrides of a run of a sweep, so that its failure can be told from others'."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode is not RunMode.MULTIRUN:
        return ""
    return f" [{' '.join(hydra_config.overrides.task)}]"


def main() -> None:
    """Run the command line; exit with 1 after a failure."""
    # Hydra would print its own tracebacks and hints; with this it lets errors through to here.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        _launch()
    except RunFailed:
        sys.exit(1)
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"error: {_about_files(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)


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
