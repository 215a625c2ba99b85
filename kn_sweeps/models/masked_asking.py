"""Ask a masked LM: one row for each target token, those before it gold, those behind it masked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kn_sweeps.edits import Edit
from kn_sweeps.models.language_model import Ids, LanguageModel
from kn_sweeps.models.reading import Asked, Changed, Reply, Slot, read, reply, score


def ask_masked(
    lm: LanguageModel, asked: Sequence[Asked], changed: Changed
) -> Iterator[tuple[int, Reply]]:
    """Every question's number and reply."""
    slots = {
        (one.number, which): [
            Slot(row.ids, one.edit, row.positions[0], row.tokens[0], whole=which == n == 0)
            for n, row in enumerate(lm.rows(target))
        ]
        for one in asked
        for which, target in enumerate(one.targets)
    }
    readings = read(lm, (slot for some in slots.values() for slot in some), changed)
    best = {slot[:3]: reading.argmax for slot, reading in readings.items()}
    answers = _greedy_masked(lm, asked, best, changed)
    for one in asked:
        scores = [
            score(
                target.target_ids,
                [readings[slot] for slot in slots[one.number, which]],
                answers[one.number, which],
            )
            for which, target in enumerate(one.targets)
        ]
        first = readings[slots[one.number, 0][0]].log_probs
        assert first is not None
        yield one.number, reply(lm, scores, answers[one.number, 1], first)


def _greedy_masked(
    lm: LanguageModel,
    asked: Sequence[Asked],
    best: dict[tuple[Ids, Edit | None, int], int],
    changed: Changed,
) -> dict[tuple[int, int], Ids]:
    """Fill each target's masks left to right, each with its argmax, where `best` has it or not."""
    targets = {(one.number, n): (t, one.edit) for one in asked for n, t in enumerate(one.targets)}
    filled = {key: lm.masked(t.ids, range(*t.target)) for key, (t, _) in targets.items()}
    for step in range(max((len(t.target_ids) for t, _ in targets.values()), default=0)):
        slots = {
            key: Slot(filled[key], edit, t.target[0] + step, 0)
            for key, (t, edit) in targets.items()
            if len(t.target_ids) > step
        }
        unread = [slot for slot in slots.values() if slot[:3] not in best]
        for slot, reading in read(lm, unread, changed).items():
            best[slot[:3]] = reading.argmax
        for key, slot in slots.items():
            ids, at = slot.ids, slot.position
            filled[key] = (*ids[:at], best[slot[:3]], *ids[at + 1 :])
    return {key: filled[key][slice(*t.target)] for key, (t, _) in targets.items()}
