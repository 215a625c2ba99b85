"""A free answer by the model's own `generate`, one prompt at a time."""

import torch
from torch import nn

from kn_sweeps.edits import Edit
from kn_sweeps.interventions import applied
from kn_sweeps.models.language_model import LanguageModel


def generated(
    lm: LanguageModel, prompt_ids: tuple[int, ...], edit: Edit | None, tokens: int
) -> str:
    """Greedy text of at most `tokens` tokens behind a prompt, under an edit."""
    model: nn.Module = lm.model
    ids = torch.tensor([prompt_ids])
    ends = list(lm.ends)
    with applied(lm, edit) if edit is not None else torch.no_grad():
        output = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=0,
        )
    new = [token for token in output[0, ids.shape[1] :].tolist() if token not in ends]
    return str(lm.tokenizer.decode(new, skip_special_tokens=True)).strip()
