"""Families without a line in FAMILIES, tried as each of those that have one.

A family is used as another where its modules are where that one's are, every shape fits and every
law holds (`laws`): what numbers rely on is checked, and a warning names the pattern.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kn_sweeps.cases import LMKind
from kn_sweeps.models.families import FAMILIES, Family, UnknownFamilyError, family_of

# Telling a config's kind takes no model library.
if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kn_sweeps.models.architecture import Architecture
    from kn_sweeps.models.language_model import LanguageModel

log = logging.getLogger(__name__)

_KINDS: dict[str, LMKind] = {
    "ForCausalLM": "causal",
    "LMHeadModel": "causal",
    "ForMaskedLM": "masked",
}


def kind_of(config: dict[str, Any]) -> LMKind:
    """How a config's family reads a query: as its line says or, without one, its class's name.

    Raises:
        ValueError: If neither says.
    """
    try:
        return family_of(str(config["model_type"])).kind
    except UnknownFamilyError:
        names = config.get("architectures") or []
        kinds = {kind for name in names if (kind := _kind(str(name))) is not None}
        if len(kinds) != 1:
            raise
        return kinds.pop()


def _kind(name: str) -> LMKind | None:
    """How a class reads a query, by its name."""
    return next((kind for end, kind in _KINDS.items() if name.endswith(end)), None)


def check_known(config: Path) -> None:
    """Refuse a family that fits no pattern, before any weight is read.

    Raises:
        ValueError: If it does not; it says which are known.
    """
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
        family_of(str(found["model_type"]))
    except UnknownFamilyError as unknown:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

        masked = kind_of(found) == "masked"
        auto: Any = AutoModelForMaskedLM if masked else AutoModelForCausalLM
        try:
            with torch.device("meta"):
                model = auto.from_config(
                    AutoConfig.from_pretrained(config, trust_remote_code=False)
                )
        except Exception:  # whatever a family that no library knows makes it raise
            raise unknown from None
        architectures_of(model)


def architectures_of(model: PreTrainedModel) -> list[tuple[str, Architecture]]:
    """Every way to see a model, by the families it is like; one and no name where it is known.

    Raises:
        ValueError: If it cannot be seen in any.
    """
    from kn_sweeps.models.architecture import Architecture

    try:
        return [("", Architecture(model))]
    except UnknownFamilyError as error:
        unknown = error
    kind = _kind(type(model).__name__)
    found: list[tuple[str, Architecture]] = []
    for names, family in _patterns():
        if family.kind == kind:
            with suppress(ValueError, AttributeError):
                found.append((names, Architecture(model, family)))
    if not found:
        raise UnknownFamilyError(f"{unknown}; it is like none of them") from unknown
    return found


def settle(lm: LanguageModel, ways: list[tuple[str, Architecture]]) -> None:
    """See a model in the first way that keeps the laws.

    Raises:
        ValueError: If none does; it says which law each breaks.
    """
    from kn_sweeps.models.laws import check_laws

    broken: list[str] = []
    for names, architecture in ways:
        lm.architecture = architecture
        if not names:
            check_laws(lm)
            return
        try:
            check_laws(lm)
        except ValueError as error:
            broken.append(f"as {names}: {error}")
            continue
        log.warning(
            "the model family %r has no line in FAMILIES and is used as %s: its modules, shapes "
            "and laws are theirs (docs/models.md); what else is its own, nobody checked",
            architecture.model_type,
            names,
        )
        return
    raise ValueError(
        f"the model family {lm.architecture.model_type!r} is not known and keeps the laws of no "
        f"known one: {'; '.join(broken)}"
    )


def _patterns() -> list[tuple[str, Family]]:
    """Every line once, with the families that have it; those that rewrite modules fit no other."""
    names: dict[Family, list[str]] = {}
    for name, family in FAMILIES.items():
        if family.rewritten is None:
            names.setdefault(family, []).append(name)
    return [(", ".join(some), family) for family, some in names.items()]
