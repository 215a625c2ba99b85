"""The places of causal tracing: what is restored, and the roles of the tokens it is restored at."""

from __future__ import annotations

from typing import Literal, get_args

Component = Literal["state", "mlp", "attention"]
COMPONENTS: tuple[Component, ...] = get_args(Component)
"""What is restored: a block's output, or a window of outputs of MLPs or attentions."""

BEFORE = "before the subject"
FIRST = "subject, first token"
MIDDLE = "subject, middle tokens"
LAST = "subject, last token"
AFTER = "after the subject"
READ = "where the answer is read"
LAST_READ = "subject, last token, read there"
ROLES = (BEFORE, FIRST, MIDDLE, LAST, AFTER, READ, LAST_READ)
"""What a token is to the fact or rule; a subject of one token is its last."""
