"""Hand-made rows: what the metrics read, without a model."""

from collections.abc import Callable
from typing import Any

import pytest

Row = dict[str, Any]


def make_row(edit: str = "e0", **given: Any) -> Row:
    """A row by its texts: the answers and margins decide every score unless given."""
    row: Row = {
        "case": edit,
        "edit": edit,
        "source": "P36",
        "task": "fact",
        "intent": "replace",
        "kind": "edit",
        "group": "",
        "probe": 0,
        "after": "edit",
        "made": 0,
        "together": "",
        "old_given": True,
        "old_aliases": [],
        "new_aliases": [],
        "old": "Paris",
        "new": "Rome",
        "rival": "",
        "old_ids": [1],
        "new_ids": [2],
        "rival_ids": [3],
        "pre_answer": "Paris",
        "post_answer": "Rome",
        "pre_margin": -1.0,
        "post_margin": 1.0,
        "pre_log_prob_old": -1.0,
        "post_log_prob_old": -2.0,
        "pre_log_prob_rival": None,
        "post_log_prob_rival": None,
        "token_kept": 0.5,
        "kl": 0.1,
    } | given
    for when in ("pre", "post"):
        row.setdefault(f"{when}_generated", None)
        for target in ("old", "new"):
            hit = row[f"{when}_answer"] == row[target]
            row[f"{when}_log_prob_{target}"] = row.get(f"{when}_log_prob_{target}", -1.0)
            for scorer in ("exact", "argmax", "token"):
                row.setdefault(
                    f"{when}_{scorer}_{target}", float(hit) if scorer == "token" else hit
                )
    return row


@pytest.fixture(scope="session")
def row() -> Callable[..., Row]:
    return make_row
