"""BLiMP accuracy of a causal LM by whole sentences, beside a plain scorer of the tests.

    KN_SWEEPS_DATA=DIR python -m benchmarks.grammar gemma3_270m --pairs 100

Both judge the first pairs of every paradigm: a pair is right where its good sentence is likelier.
The table has both accuracies, and how many pairs the two judge differently, which should be none.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring import configured_model, official_data, say, table
from kn_sweeps.models.asking import Sentence, score_sentences
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import start_id
from tests.reference import blimp


def judged(lm: LanguageModel, pairs: Sequence[tuple[str, str]]) -> tuple[list[bool], list[bool]]:
    """Whether each pair's good sentence is likelier: here, and by the plain scorer."""
    every = [Sentence(text) for pair in pairs for text in pair]
    scores = [one.log_prob for one in score_sentences(lm, every)]
    here = [good > bad for good, bad in zip(scores[::2], scores[1::2], strict=True)]

    def tokenize(text: str) -> list[int]:
        return list(lm.tokenizer(text, add_special_tokens=False)["input_ids"])

    start = start_id(lm.tokenizer, lm.start_token)
    plain = [blimp.accuracy(lm.model, tokenize, start, [pair]) == 1 for pair in pairs]
    return here, plain


def main() -> None:
    """Judge every paradigm and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a YAML of conf/model")
    parser.add_argument("--pairs", type=int, default=100, help="of every paradigm, at most")
    parser.add_argument("--root", help="the folder of BLiMP's JSON lines")
    options = parser.parse_args()
    lm = configured_model(options.model)
    lm.batch_size = 8
    rows: list[dict[str, object]] = []
    every: tuple[list[bool], list[bool]] = ([], [])
    for file in sorted(Path(official_data(options.root, "blimp")).rglob("*.jsonl")):
        found = judged(lm, blimp.pairs_of(file, options.pairs))
        for all_of, some in zip(every, found, strict=True):
            all_of += some
        rows.append({"paradigm": file.stem, **_row(*found)})
        say(f"{file.stem}: {rows[-1]}")
    print(table([*rows, {"paradigm": f"all {len(rows)}", **_row(*every)}]))


def _row(here: Sequence[bool], plain: Sequence[bool]) -> dict[str, object]:
    return {
        "pairs": len(here),
        "accuracy": f"{sum(here) / len(here):.4f}",
        "plain scorer": f"{sum(plain) / len(plain):.4f}",
        "judged differently": sum(a != b for a, b in zip(here, plain, strict=True)),
    }


if __name__ == "__main__":
    main()
