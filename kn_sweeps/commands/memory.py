"""What runs need of memory, counted from their models' configs: no weights are needed or read.

    kn-sweeps memory model=llama_2_7b method=rome dtype=bfloat16
    kn-sweeps memory model=gpt2_xl,llama_3_8b method=kn,rome,memit,ft

takes models and methods by their presets, all of them where none is named, and other overrides of
a launch, such as method.max_rows=64 or batch_size=16. The table has, in GiB, a model's weights and
by method what is there beside them at one time at most: activations, with what their gradients
keep; statistics (second moments in double precision, points of integrals); edits; and the
log-probabilities of answers. Statistics and answers are in the CPU's memory; edits are, too, and
on the model's device when they are scored. --markdown prints model x method: what is on the
device + on the CPU.

Sizes are those of the model's config.json where it is on this machine, else, marked *, those of
kn_sweeps/models/sizes.py. A prompt counts --tokens tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from kn_sweeps.commands.console import Parser, command, remark, say
from kn_sweeps.commands.explaining import explain
from kn_sweeps.commands.resolvers import register_resolvers
from kn_sweeps.models.loading import Model
from kn_sweeps.models.sizes import SIZES
from kn_sweeps.records.places import CONF
from kn_sweeps.showing.sheets import Sheet

if TYPE_CHECKING:
    from kn_sweeps.models.memory import Shape, Work

PARTS = ("weights", "activations", "statistics", "edits", "answers", "all")
_GROUPS = ("model", "method")
_NO_PRESET = ("checkpoint",)
"""Of the models: it is the one that is named besides."""


def config_of(model: Model) -> tuple[Mapping[str, Any], bool]:
    """What a model's config.json says of its sizes, and whether it was at hand.

    Raises:
        ValueError: If nothing tells.
    """
    name = getattr(model, "name", None)
    known = SIZES.get(name or model.label)
    file = model.config_file() if known is None or name is None else _kept_of_hub(name)
    if file is not None:
        return json.loads(file.read_text(encoding="utf-8")), True
    if known is None:
        raise ValueError(
            f"model {model.label}: nothing here tells its sizes; fetch it first, with kn-sweeps "
            f"prefetch model={model.label}"
        )
    return known, False


def _kept_of_hub(name: str) -> Path | None:
    """The config.json of a hub's model that was fetched before."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found) if isinstance(found, str) else None


def counted(config: DictConfig, shape: Shape, work: Work) -> dict[str, int]:
    """What a run of a composed config needs, in bytes, by `PARTS`.

    Raises:
        ValueError: If a method's value is missing or does not fit.
    """
    from kn_sweeps.config import build
    from kn_sweeps.models.memory import in_all

    node = OmegaConf.to_container(config["method"], resolve=True, throw_on_missing=True)
    method = build({str(key): value for key, value in dict(node or {}).items()}, at="method")  # type: ignore[arg-type]
    return in_all(shape, method.needs(shape, work), work)


Row = tuple[str, str, str, Mapping[str, int]]
"""Model, method, dtype, and bytes by `PARTS`."""


def rows_of(overrides: Sequence[str], tokens: int) -> Iterator[Row]:
    """What is asked for, model by model.

    Raises:
        ValueError: If there is no such model or method, or an override is none.
    """
    from kn_sweeps.config import build
    from kn_sweeps.models.memory import Work, shape_of_config

    chosen, others = _chosen(overrides)
    for model in chosen["model"]:
        shape: Shape | None = None
        for method in chosen["method"]:
            config = compose("config", [f"model={model}", f"method={method}", *others])
            if shape is None:
                node: Any = OmegaConf.to_container(config["model"], resolve=True)
                made = build(node, at="model")
                sizes, at_hand = config_of(made)
                shape = shape_of_config(sizes, config["dtype"], made.quantization)
                name = model if at_hand else f"{model}*"
            work = Work(tokens=tokens, batch_size=int(config["batch_size"]))
            try:
                found = counted(config, shape, work)
            except Exception as error:
                if (why := explain(error)) is None:
                    raise
                if len(chosen["model"]) * len(chosen["method"]) == 1:
                    raise ValueError(why) from error
                remark(f"left out: model={model} method={method}: {why}")
                continue
            yield name, method, str(config["dtype"]), found


def _chosen(overrides: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The models and methods that are asked for, all where none is, and the other overrides."""
    chosen = {
        group: [one.stem for one in sorted((CONF / group).glob("*.yaml"))] for group in _GROUPS
    }
    chosen["model"] = [one for one in chosen["model"] if one not in _NO_PRESET]
    others = []
    for override in overrides:
        group, _, names = override.partition("=")
        if group in _GROUPS:
            chosen[group] = names.split(",")
        else:
            others.append(override)
    return chosen, others


@command(words=explain)
def main(arguments: Sequence[str] | None = None) -> None:
    """Print what some runs need."""
    parser = Parser.of("memory", __doc__)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as of a launch")
    parser.add_argument("--tokens", type=_count, default=16, help="of a prompt (16)")
    parser.add_argument("--markdown", action="store_true", help="print model x method")
    chosen = parser.parse_args(arguments)
    register_resolvers()
    head = ("model", "method", "dtype", *PARTS)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        rows = list(rows_of(chosen.overrides, chosen.tokens))
    if chosen.markdown:
        say(_by_method(rows))
        return
    shown = [(*about, *(f"{one / 2**30:.3g}" for one in found.values())) for *about, found in rows]
    say(Sheet("memory in GiB", shown, head).text())


def _by_method(rows: Sequence[Row]) -> str:
    """Model x method in Markdown: GiB on the device + on the CPU."""
    by_model: dict[str, dict[str, str]] = {}
    for model, method, _, found in rows:
        on_device = found["weights"] + found["activations"] + found["edits"]
        on_cpu = found["statistics"] + found["answers"] + found["edits"]
        line = by_model.setdefault(model, {"weights": f"{found['weights'] / 2**30:.1f}"})
        line[method] = f"{on_device / 2**30:.1f} + {on_cpu / 2**30:.1f}"
    names = list(dict.fromkeys(name for line in by_model.values() for name in line))
    lines = [["model", *names], ["---"] * (len(names) + 1)]
    lines += [[model, *(line.get(name, "") for name in names)] for model, line in by_model.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
