"""What `kn-sweeps memory` counts, beside what is measured.

    python -m benchmarks.memory smollm2_135m

Methods edit and score a few of the bundled facts in turn, on the CPU. The peak of this process's
resident memory above what it was with the model loaded is set against what was counted for as many
cases, rows and tokens, by itself and with the weights.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from dataclasses import dataclass
from unittest.mock import patch

from benchmarks.measuring import configured_model, peak_memory, say, table
from kn_sweeps.attribution import integrated_gradients
from kn_sweeps.cases import Case, edit_probe
from kn_sweeps.data.pararel import ParaRel
from kn_sweeps.evaluation.evaluate import evaluate
from kn_sweeps.evaluation.selection import scorable
from kn_sweeps.methods.base import Method
from kn_sweeps.methods.ft import FineTuning
from kn_sweeps.methods.ike import InContextEditing
from kn_sweeps.methods.kn import KnowledgeNeurons
from kn_sweeps.methods.locft import LocalisedFineTuning
from kn_sweeps.methods.lora import Lora
from kn_sweeps.methods.none import NoEdit
from kn_sweeps.methods.rome import Rome
from kn_sweeps.methods.ultraedit import UltraEdit
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.memory import Shape, Work, in_all, shape_of_config
from kn_sweeps.models.precision import in_double

METHODS: dict[str, type[Method]] = {
    "none": NoEdit,
    "kn": KnowledgeNeurons,
    "rome": Rome,
    "ft": FineTuning,
    "locft": LocalisedFineTuning,
    "lora": Lora,
    "ultraedit": UltraEdit,
    "ike": InContextEditing,
}


@dataclass(frozen=True)
class Compared:
    """Bytes counted and measured, above the model and with it."""

    counted: int
    measured: int
    weights: int

    @property
    def ratio(self) -> float:
        """Counted to measured, of all."""
        return (self.counted + self.weights) / (self.measured + self.weights)


def work_of(lm: LanguageModel, cases: Sequence[Case]) -> Work:
    """What editing and scoring some cases is, as `Work` has it."""
    prompts = [lm.encode(edit_probe(case).query, edit_probe(case).new) for case in cases]
    probes = [(one.query, text) for case in cases for one in case.all_probes for text in (one.old,)]
    return Work(
        tokens=max(len(lm.encode(*one).ids) for one in probes),
        behind=max(len(one.ids) - one.subject_last for one in prompts),
        prompts=max(len(case.seen) for case in cases),
        cases=len(cases),
        probes=max(len(case.all_probes) for case in cases),
        batch_size=lm.batch_size,
    )


def compare(lm: LanguageModel, shape: Shape, method: Method, cases: Sequence[Case]) -> Compared:
    """Edit and score some cases, and count the same."""
    work = work_of(lm, cases)
    method.prepare(lm, 0)
    gc.collect()
    # What is counted is the least: where there is room, all weights are made double at once.
    least = patch.object(integrated_gradients, "in_double", lambda model, **_: in_double(model))
    with peak_memory(lm.device) as peak, least:
        plan = method.plan(lm, cases, 0, together=isinstance(method, UltraEdit))
        evaluate(lm, cases, plan, method.intent)
    found = in_all(shape, method.needs(shape, work), work)
    return Compared(found["all"] - shape.weights, peak.bytes, shape.weights)


def some_cases(lm: LanguageModel, count: int) -> list[Case]:
    """The first of the bundled facts."""
    loaded = ParaRel(relations=("P36",)).load(lm.kind, seed=0, limit=count, editable=True)
    return list(scorable(lm, loaded.cases)[0][:count])


def main() -> None:
    """Compare every method and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a YAML of conf/model")
    parser.add_argument("--cases", type=int, default=8, help="edited together")
    parser.add_argument("--methods", default=",".join(METHODS))
    options = parser.parse_args()
    lm = configured_model(options.model)
    shape = shape_of_config(lm.model.config.to_dict(), "float32")
    cases = some_cases(lm, options.cases)
    say(f"{work_of(lm, cases)}")
    evaluate(lm, cases[:1], NoEdit().plan(lm, cases[:1]), "replace")  # what loads, loads now
    rows: list[dict[str, object]] = []
    for name in options.methods.split(","):
        found = compare(lm, shape, METHODS[name].for_model(lm), cases)
        mib = {what: round(getattr(found, what) / 2**20) for what in ("counted", "measured")}
        above = found.counted / max(found.measured, 1)
        rows.append({"method": name, **mib, "ratio": above, "ratio with the weights": found.ratio})
        say(str(rows[-1]))
    print(table(rows))


if __name__ == "__main__":
    main()
