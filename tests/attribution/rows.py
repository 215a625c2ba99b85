"""An encoded prompt as the references read it."""

from __future__ import annotations

import torch

from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import Encoded
from tests.reference.reading import Row, causal_rows, masked_rows


def reference_rows(lm: LanguageModel, encoded: Encoded) -> list[Row]:
    if lm.kind == "causal":
        return causal_rows(torch.tensor([encoded.prompt_ids]), encoded.target_ids)
    ids = torch.tensor([encoded.ids])
    positions = list(range(*encoded.target))
    ids[0, positions] = lm.tokenizer.mask_token_id
    return masked_rows(ids, positions, encoded.target_ids)
