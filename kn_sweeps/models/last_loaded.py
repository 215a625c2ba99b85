"""The model that was loaded last, for runs that come one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kn_sweeps.models.checkpoints import DType
from kn_sweeps.models.loading import Model, load_model

if TYPE_CHECKING:
    import torch

    from kn_sweeps.models.language_model import LanguageModel


class LastLoaded:
    """Loads models and keeps the last one, for runs that come one after the other."""

    def __init__(self) -> None:
        """Start with none."""
        self._key: object = None
        self._lm: LanguageModel | None = None

    def __call__(self, model: Model, device: torch.device, dtype: DType) -> LanguageModel:
        """Load a model, unless it is the last one and was left as it was."""
        # What else a config says of a model does not change what is loaded.
        asked = (model.label, model.start_token, model.chat, model.device_map)
        key = (model.fingerprint(), *asked, str(device), dtype)
        if self._lm is None or key != self._key or self._lm.is_edited:
            self._key, self._lm = None, None  # makes room first
            self._lm = load_model(model, device, dtype)
            self._key = key
        return self._lm
