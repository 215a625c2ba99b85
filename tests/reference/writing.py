"""Generation entropy and tf-idf similarity from their formulas.

Formulas:
    H_n = -sum_g f(g) log2 f(g), over the n-grams g of a text with relative frequency f
    entropy = (2/3 H_2 + 4/3 H_3) / 2
    idf(w) = ln((1 + N) / (1 + df(w))) + 1, over the N texts of a corpus
    similarity = the cosine of tf(w) idf(w)
"""

from __future__ import annotations

import math
import re


def entropy(words: list[str]) -> float:
    found = []
    for n in (2, 3):
        grams = [" ".join(words[k : k + n]) for k in range(len(words) - n + 1)]
        shares = [grams.count(gram) / len(grams) for gram in sorted(set(grams))]
        found.append(-sum(share * math.log(share, 2) for share in shares))
    return (2 / 3 * found[0] + 4 / 3 * found[1]) / 2


def similarity(corpus: list[str], one: str, other: str) -> float:
    texts = [re.findall(r"\b\w\w+\b", text.lower()) for text in corpus]
    vocabulary = sorted({word for text in texts for word in text})
    idf = {w: math.log((1 + len(texts)) / (1 + sum(w in t for t in texts))) + 1 for w in vocabulary}
    sides = [re.findall(r"\b\w\w+\b", text.lower()) for text in (one, other)]
    first, second = ([side.count(w) * idf[w] for w in vocabulary] for side in sides)
    lengths = math.hypot(*first) * math.hypot(*second)
    return sum(map(math.prod, zip(first, second, strict=True))) / lengths if lengths else 0.0
