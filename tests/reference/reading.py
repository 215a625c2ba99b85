"""How a model reads an answer of several tokens: rows of ids, and where each token is predicted.

Source: the chain rule, P(y | x) = prod_i P(y_i | x, y_<i), always with the gold (never the
predicted) prefix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, cat, tensor


@dataclass(frozen=True)
class Row:
    """One input, and the tokens its logits are asked for.

    Attributes:
        ids: Input ids, shape (1, seq).
        positions: Where the logits are read, from 0.
        tokens: The token wanted at each of ``positions``.
    """

    ids: Tensor
    positions: tuple[int, ...]
    tokens: tuple[int, ...]


def causal_rows(prompt_ids: Tensor, target_ids: Sequence[int]) -> list[Row]:
    """Read a target with a causal LM: one row, prompt and target but its last token.

    Token i of the target is predicted one position before its own: at ``len(prompt) - 1 + i``.

    Args:
        prompt_ids: Shape (1, seq), at least one token.
        target_ids: The target's token ids, at least one.

    Returns:
        A list of one row.
    """
    target = tuple(int(token) for token in target_ids)
    prefix = tensor([target[:-1]], dtype=prompt_ids.dtype, device=prompt_ids.device)
    last = prompt_ids.shape[1] - 1
    positions = tuple(last + i for i in range(len(target)))
    return [Row(cat([prompt_ids, prefix], dim=1), positions, target)]


def masked_rows(
    ids_with_masks: Tensor, mask_positions: Sequence[int], target_ids: Sequence[int]
) -> list[Row]:
    """Read a target with a masked LM, left to right: one row per piece.

    Row i has pieces 0 .. i-1 revealed (gold) and pieces i .. n-1 masked, and is read at piece i.

    Args:
        ids_with_masks: Shape (1, seq), with a mask token at every one of ``mask_positions``.
        mask_positions: Ascending, from 0, one for each target token.
        target_ids: The target's token ids.

    Returns:
        As many rows as target tokens.
    """
    rows = []
    ids = ids_with_masks.clone()
    for position, token in zip(mask_positions, target_ids, strict=True):
        rows.append(Row(ids.clone(), (int(position),), (int(token),)))
        ids[0, position] = token
    return rows
