"""What a tiny model knows: the figures that training must reach, measured anew from the data."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kn_sweeps.data.sentences import BundledPair, FactSentence, bundled_pairs, fact_sentences
from kn_sweeps.tiny.corpus import is_held_out

# The least share of right answers, by figure.
REQUIRED = {
    "facts_seen": 0.95,
    "facts_held_out": 0.80,
    "pairs_seen": 0.95,
    "pairs_held_out": 0.95,
}
BATCH = 256

T = TypeVar("T")
Logits = Float[Tensor, "seq vocab"]


@dataclass(frozen=True)
class Reader:
    """A model with its tokenizer; masked if the tokenizer has a mask token."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def masked(self) -> bool:
        """Whether the model is a masked LM."""
        return self.tokenizer.mask_token_id is not None

    def encode(self, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        """Token ids of the texts."""
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=special)["input_ids"]
        return ids

    @torch.inference_mode()
    def read(self, rows: Sequence[Sequence[int]], pick: Callable[[int, Logits], T]) -> list[T]:
        """Run the model and keep what `pick` makes of a row's index and its logits.

        Rows of one length share a batch, so that there is no padding.
        """
        by_length: dict[int, list[int]] = defaultdict(list)
        for index, row in enumerate(rows):
            by_length[len(row)].append(index)
        found: dict[int, T] = {}
        for indices in by_length.values():
            for start in range(0, len(indices), BATCH):
                chunk = indices[start : start + BATCH]
                ids = torch.tensor([rows[i] for i in chunk], device=self.model.device)
                for index, logits in zip(chunk, self.model(ids).logits, strict=True):
                    found[index] = pick(index, logits)
        return [found[index] for index in range(len(rows))]


def answers_fact(reader: Reader, items: Sequence[FactSentence]) -> list[bool]:
    """Whether the greedy answer is the fact's object, token for token.

    A greedy answer equals the target exactly when every token of the target is the argmax after the
    ones before it, so that one reading per token (masked) or in all (causal) suffices.
    """
    return (_masked_answers if reader.masked else _causal_answers)(reader, items)


def _causal_answers(reader: Reader, items: Sequence[FactSentence]) -> list[bool]:
    targets = reader.encode([item.answer for item in items], special=False)
    prefixes = reader.encode([item.prefix for item in items])
    rows = [prefix + target[:-1] for prefix, target in zip(prefixes, targets, strict=True)]

    def is_right(index: int, logits: Logits) -> bool:
        target = targets[index]
        return bool(logits[-len(target) :].argmax(-1).tolist() == target)

    return reader.read(rows, is_right)


def _masked_answers(reader: Reader, items: Sequence[FactSentence]) -> list[bool]:
    tokenizer = reader.tokenizer
    targets = reader.encode([item.answer for item in items], special=False)
    befores = reader.encode([item.prefix for item in items], special=False)
    afters = reader.encode([item.suffix for item in items], special=False)
    rows, questions = [], []
    for item, (before, target, after) in enumerate(zip(befores, targets, afters, strict=True)):
        for step, token in enumerate(target):
            slot = target[:step] + [tokenizer.mask_token_id] * (len(target) - step)
            rows.append([tokenizer.cls_token_id, *before, *slot, *after, tokenizer.sep_token_id])
            questions.append((item, 1 + len(before) + step, token))

    def is_right(index: int, logits: Logits) -> bool:
        _, position, token = questions[index]
        return int(logits[position].argmax()) == token

    right = [True] * len(items)
    for (item, _, _), answer in zip(questions, reader.read(rows, is_right), strict=True):
        right[item] &= answer
    return right


def prefers_good(reader: Reader, pairs: Sequence[BundledPair]) -> list[bool]:
    """Whether the model prefers the good sentence.

    A masked LM by the masked word; a causal LM by the word after the prefix where BLiMP declares
    the one-prefix method valid, and by the probability of the whole sentence elsewhere.
    """
    margins = (_masked_margins if reader.masked else _causal_margins)(reader, pairs)
    return [margin > 0 for margin in margins]


def _masked_margins(reader: Reader, pairs: Sequence[BundledPair]) -> list[float]:
    goods = reader.encode([pair.words[1] for pair in pairs], special=False)
    bads = reader.encode([pair.words[2] for pair in pairs], special=False)
    # The bundled sentences have one token a word, and [CLS] in front.
    positions = [1 + pair.words[0] for pair in pairs]
    rows = reader.encode([pair.good for pair in pairs])
    for row, position in zip(rows, positions, strict=True):
        row[position] = reader.tokenizer.mask_token_id

    def margin(index: int, logits: Logits) -> float:
        scores = logits[positions[index]]
        return float(scores[goods[index][0]] - scores[bads[index][0]])

    return reader.read(rows, margin)


def _causal_margins(reader: Reader, pairs: Sequence[BundledPair]) -> list[float]:
    rows = reader.encode([text for pair in pairs for text in (pair.good, pair.bad)])

    def log_probability(index: int, logits: Logits) -> float:
        targets = torch.tensor(rows[index][1:], device=logits.device)
        # The BOS has no log-probability, so that position i is that of word i.
        by_word = logits[:-1].log_softmax(-1).gather(1, targets[:, None])[:, 0]
        pair = pairs[index // 2]
        return float(by_word[pair.words[0]] if pair.one_prefix else by_word.sum())

    logs = reader.read(rows, log_probability)
    return [good - bad for good, bad in zip(logs[::2], logs[1::2], strict=True)]


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Shares of right answers, in [0, 1].

    Args:
        model: A masked or causal LM, in evaluation mode.
        tokenizer: Its tokenizer.

    Returns:
        The four figures of `REQUIRED`, and `facts_held_out/P...` and `pairs_held_out/UID` by
        relation and paradigm. A causal LM is asked only patterns that end in the answer.
    """
    reader = Reader(model, tokenizer)
    facts = [item for item in fact_sentences() if reader.masked or item.causal]
    pairs = bundled_pairs()
    groups: dict[str, list[bool]] = defaultdict(list)
    for fact, right in zip(facts, answers_fact(reader, facts), strict=True):
        groups["facts_held_out" if is_held_out(fact) else "facts_seen"].append(right)
        if is_held_out(fact):
            groups[f"facts_held_out/{fact.relation}"].append(right)
    for pair, right in zip(pairs, prefers_good(reader, pairs), strict=True):
        groups["pairs_held_out" if is_held_out(pair) else "pairs_seen"].append(right)
        if is_held_out(pair):
            groups[f"pairs_held_out/{pair.paradigm}"].append(right)
    return {name: _share(groups[name]) for name in [*REQUIRED, *sorted(groups.keys() - REQUIRED)]}
