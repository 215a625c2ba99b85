"""Locate, edit and measure what a language model knows.

    import kn_sweeps as kn

    lm = kn.load("tiny_gpt2")
    fact = kn.fact("The capital of {} is", "France", old="Paris", new="Rome")
    edit = kn.Rome.for_model(lm).plan(lm, [fact])
    kn.evaluate(lm, [fact], edit)

What is exported is imported when it is first used: see docs/notebook.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kn_sweeps.cases import Case
    from kn_sweeps.interventions import applied
    from kn_sweeps.methods.alphaedit import AlphaEdit
    from kn_sweeps.methods.emmet import Emmet
    from kn_sweeps.methods.ft import FineTuning
    from kn_sweeps.methods.ike import InContextEditing
    from kn_sweeps.methods.kn import KnowledgeNeurons
    from kn_sweeps.methods.locft import LocalisedFineTuning
    from kn_sweeps.methods.lora import Lora
    from kn_sweeps.methods.memit import Memit
    from kn_sweeps.methods.none import NoEdit
    from kn_sweeps.methods.random import RandomControl
    from kn_sweeps.methods.rome import Rome
    from kn_sweeps.methods.ultraedit import UltraEdit
    from kn_sweeps.models.language_model import LanguageModel
    from kn_sweeps.notebook.cases import fact, pair
    from kn_sweeps.notebook.evaluation import Evaluation, evaluate, top
    from kn_sweeps.notebook.locating import Attributed, Traced, attribute, trace
    from kn_sweeps.notebook.presets import load
    from kn_sweeps.notebook.results import rows, runs
    from kn_sweeps.plans import Plan

_FROM = {
    **dict.fromkeys(("fact", "pair"), "notebook.cases"),
    **dict.fromkeys(("Evaluation", "evaluate", "top"), "notebook.evaluation"),
    **dict.fromkeys(("Attributed", "Traced", "attribute", "trace"), "notebook.locating"),
    **dict.fromkeys(("rows", "runs"), "notebook.results"),
    "load": "notebook.presets",
    "applied": "interventions",
    "Case": "cases",
    "Plan": "plans",
    "LanguageModel": "models.language_model",
    "AlphaEdit": "methods.alphaedit",
    "Emmet": "methods.emmet",
    "FineTuning": "methods.ft",
    "InContextEditing": "methods.ike",
    "KnowledgeNeurons": "methods.kn",
    "LocalisedFineTuning": "methods.locft",
    "Lora": "methods.lora",
    "Memit": "methods.memit",
    "NoEdit": "methods.none",
    "RandomControl": "methods.random",
    "Rome": "methods.rome",
    "UltraEdit": "methods.ultraedit",
}
"""In which module of the package each export is; those above, for who runs the code."""

__all__ = [
    "AlphaEdit",
    "Attributed",
    "Case",
    "Emmet",
    "Evaluation",
    "FineTuning",
    "InContextEditing",
    "KnowledgeNeurons",
    "LanguageModel",
    "LocalisedFineTuning",
    "Lora",
    "Memit",
    "NoEdit",
    "Plan",
    "RandomControl",
    "Rome",
    "Traced",
    "UltraEdit",
    "applied",
    "attribute",
    "evaluate",
    "fact",
    "load",
    "pair",
    "rows",
    "runs",
    "top",
    "trace",
]


def __getattr__(name: str) -> Any:
    """Import an export, once."""
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_FROM[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What there is, for completion."""
    return sorted({*globals(), *__all__})
