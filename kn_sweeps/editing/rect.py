"""RECT (Gu et al. 2024): of an update, only what changes its weight most, relatively."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from kn_sweeps.edits import Dense, Edit, Joint, LowRank, RankOne, change_of, joined, parts
from kn_sweeps.interventions import written_by
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.memory import Shape


def refuse_share(keep_share: float) -> None:
    """Refuse a share that cannot be meant.

    Raises:
        ValueError: If it is not above 0 and at most 1.
    """
    if not 0 < keep_share <= 1:
        raise ValueError(f"keep_share must be above 0 and at most 1, got {keep_share}")


def kept_needed(shape: Shape, cases: int, *, dense: bool) -> int:
    """Bytes that edits of one layer take: every weight, or two vectors each."""
    return 4 * cases * (shape.d_ff * shape.d_model if dense else shape.d_ff + shape.d_model)


def kept_largest(
    lm: LanguageModel, edits: Mapping[str, Edit], keep_share: float, *, together: bool
) -> dict[str, Edit]:
    """Low-rank edits without the entries that change their weight least, |Delta_ij / W_ij|.

    Args:
        lm: The model, in the scope of earlier edits where there are any; W is as they leave it.
        edits: By id.
        keep_share: Share of the entries of each layer that are kept; 1 leaves edits as they are.
        together: Whether they are in effect at once, so that their sum is one update: it is the
            first one's then, and the others add nothing.

    Source: Gu et al. (2024), *Model Editing Harms General Abilities of Large Language Models*,
    section 5, and the code of Fang et al. (2025), which keeps 40 %.
    """
    if keep_share == 1 or not edits:
        return dict(edits)
    if together:
        whole = _kept(lm, joined(edits.values()), keep_share)
        return {name: Joint(()) if n else whole for n, name in enumerate(edits)}
    return {name: _kept(lm, edit, keep_share) for name, edit in edits.items()}


def _kept(lm: LanguageModel, edit: Edit, share: float) -> Edit:
    found: list[Edit] = []
    for part in parts(joined([edit])):
        assert isinstance(part, RankOne | LowRank | Dense)
        change = change_of(part)
        weights = written_by(lm, part.layer, range(len(change)))[0].to(change)
        relative = (change / weights).abs().nan_to_num(0.0, posinf=torch.inf)
        # The smallest that stays, counted from below; of equal ones all stay, as in the code.
        lost = relative.numel() - max(1, round(share * relative.numel()))
        least = relative.flatten().kthvalue(lost + 1).values
        found.append(Dense(part.layer, torch.where(relative >= least, change, 0.0)))
    return found[0] if len(found) == 1 else Joint(tuple(found))
