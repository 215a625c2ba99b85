"""How well the model predicts running text before and after each edit: is it still a model?"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from kn_sweeps.cases import Case, Query
from kn_sweeps.data.texts import fetch_texts, texts_of
from kn_sweeps.edits import Edit, apart, is_identity
from kn_sweeps.interventions import applied_rowwise
from kn_sweeps.measurements.base import Finding, Measure
from kn_sweeps.models.asking import Sentence, score_sentences
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import UnscorableError
from kn_sweeps.plans import Plan
from kn_sweeps.progress.counting import counted
from kn_sweeps.row import Row

log = logging.getLogger(__name__)

_READS = 2048
"""Tokens read at once: each is read with its whole vocabulary."""
_SPECIAL = 8
"""Room for what a tokenizer puts around a text."""


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of running text, of the unedited model and with each edit in effect.

    A record a case: `edit`, the id of its edit; `before` and `after`, exp of the mean negative
    log-probability of all tokens of all texts (of a masked LM, each masked alone: pseudo-
    perplexity); `tokens`, how many they are. What is in effect is what is when the case is scored;
    a text in context stands before every text, and an edit whose texts are too long has no record.

    Attributes:
        texts: `bundled`; a text file, or a folder of `.txt` files, with one text a line; or a hub
            dataset, `NAME` or `NAME:CONFIG`.
        samples: Texts read, the first ones.
        max_tokens: Longer texts are cut.
    """

    texts: str = "bundled"
    samples: int = 50
    max_tokens: int = 128

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        for name in ("samples", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def fetch(self) -> None:
        """Have the texts on this machine.

        Raises:
            ValueError: If they cannot be had.
        """
        fetch_texts(self.texts, self.samples)

    def begin(self, lm: LanguageModel, cases: Sequence[Case], seed: int) -> Measure:
        """Read the text with the unedited model."""
        del cases, seed  # nothing is drawn
        texts = self._readable(lm)
        ((before, tokens),) = _perplexities(lm, texts, [None])
        log.info("perplexity of %s: %.4g, %d tokens", self.texts, before, tokens)

        def measure(cases: Sequence[Case], plan: Plan, rows: Sequence[Row]) -> list[Finding]:
            failed = {row["case"] for row in rows if row["kind"] == "failed"}
            effects = {case: plan.effect_on(case.id) for case in cases if case.id not in failed}
            unread = [one for one in dict.fromkeys(effects.values()) if not _fit(lm, texts, one)]
            if unread:
                log.warning("perplexity: no text can be read behind %d edits' own", len(unread))
            effects = {case: effect for case, effect in effects.items() if effect not in unread}
            changing = [one for one in dict.fromkeys(effects.values()) if not is_identity(one)]
            found = _perplexities(lm, texts, changing)
            after = {one: value for one, (value, _) in zip(changing, found, strict=True)}
            return [
                {
                    "case": case.id,
                    "source": case.source,
                    "edit": plan.edit_of[case.id],
                    "before": before,
                    "after": after.get(effect, before),
                    "tokens": tokens,
                }
                for case, effect in effects.items()
            ]

        return measure

    def _readable(self, lm: LanguageModel) -> list[str]:
        """The texts, cut to length; those that the model cannot read are left out."""
        longest = min(self.max_tokens, (lm.architecture.max_tokens or math.inf) - _SPECIAL)
        found, unreadable = [], 0
        for text in texts_of(self.texts, self.samples):
            cut = _cut(lm, text.strip(), int(longest))
            try:
                lm.encode(Query(""), cut)
            except UnscorableError:
                unreadable += 1
            else:
                found.append(cut)
        if unreadable:
            log.warning("perplexity: %d texts have what the tokenizer does not know", unreadable)
        if not found:
            raise ValueError(f"perplexity: {lm.name} can read none of the texts {self.texts!r}")
        return found


def _fit(lm: LanguageModel, texts: Sequence[str], edit: Edit) -> bool:
    """Whether all texts can be read behind that of an edit, where it has one."""
    before, _ = apart(edit)
    try:
        for text in texts if before else ():
            lm.encode(Query(""), text, before)
    except UnscorableError:
        return False
    return True


def _cut(lm: LanguageModel, text: str, tokens: int) -> str:
    """The beginning of a text, of as many tokens."""
    spans = lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return text[: max((end for _, end in spans["offset_mapping"][:tokens]), default=0)].rstrip()


def _perplexities(
    lm: LanguageModel, texts: Sequence[str], edits: Sequence[Edit | None]
) -> list[tuple[float, int]]:
    """Of each edit, the perplexity of all texts, and of how many tokens it is."""
    losses, tokens = [0.0] * len(edits), [0] * len(edits)
    asked = [(n, Sentence(text, edit)) for n, edit in enumerate(edits) for text in texts]
    lengths = {text: len(lm.encode(Query(""), text).target_ids) for text in texts}
    for chunk in counted(list(_chunks(asked, lengths)), "batch of texts"):
        scores = score_sentences(lm, [one for _, one in chunk], partial(applied_rowwise, lm))
        for (n, _), score in zip(chunk, scores, strict=True):
            losses[n] -= score.log_prob
            tokens[n] += len(score.ids)
    return [(_exp(loss / n), n) for loss, n in zip(losses, tokens, strict=True)]


def _chunks(
    asked: Sequence[tuple[int, Sentence]], lengths: Mapping[str, int]
) -> Iterator[list[tuple[int, Sentence]]]:
    """As many as are read at once."""
    chunk: list[tuple[int, Sentence]] = []
    reads = 0
    for one in asked:
        reads += lengths[one[1].text]
        if chunk and reads > _READS:
            yield chunk
            chunk, reads = [], lengths[one[1].text]
        chunk.append(one)
    yield chunk


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
