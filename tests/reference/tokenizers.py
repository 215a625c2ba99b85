"""Small tokenizers of the kinds that make a token of the blank before an answer."""

from __future__ import annotations

from collections.abc import Callable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

TEXT = "The town was founded in Paris and Rome (see 1998). Город основан в Москве"


def digit_bytes(trim: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level pieces with every digit alone, as SmolLM2's: "in", "_", "1", "9"."""
    split = pre_tokenizers.Digits(individual_digits=True)
    return _byte_level(split, trim=trim)


def number_bytes() -> PreTrainedTokenizerFast:
    """Byte-level pieces with up to three digits together, as LLaMA 3's: "in", "_", "199", "8"."""
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    return _byte_level(pre_tokenizers.Split(Regex(pattern), "isolated"))


def closing_bytes() -> PreTrainedTokenizerFast:
    """As `digit_bytes`, but a text is closed with EOS, as some closed with T5's template are."""
    tokenizer = digit_bytes()
    eos = tokenizer.convert_tokens_to_ids("</s>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[("<s>", tokenizer.convert_tokens_to_ids("<s>")), ("</s>", eos)],
    )
    return tokenizer


def sentence_pieces() -> PreTrainedTokenizerFast:
    """SentencePiece's way with digits alone, as LLaMA 2's: "_in", "_", "1", "9"."""
    words = [f"\u2581{word}" for word in TEXT.split() if word.isalpha()]
    letters = sorted({*TEXT.replace(" ", ""), "\u2581", *"0123456789"})
    tokenizer = Tokenizer(
        models.Unigram(
            [("<unk>", -20.0), *((w, -1.0) for w in words), *((c, -9.0) for c in letters)]
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace("\u2581", prepend_scheme="first")
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(["<s>", "</s>", "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", mask_token="<mask>"
    )


def _byte_level(
    split: pre_tokenizers.PreTokenizer, *, trim: bool = False
) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = {letter: n for n, letter in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for word in (f"\u0120{word}" for word in TEXT.split() if word.isascii() and word.isalpha()):
        for end in range(1, len(word)):
            if word[: end + 1] not in pieces:
                merges.append((word[:end], word[end]))
                pieces[word[: end + 1]] = len(pieces)
    tokenizer = Tokenizer(models.BPE(pieces, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "every digit alone": digit_bytes,
    "every digit alone, blanks trimmed": lambda: digit_bytes(trim=True),
    "numbers alone": number_bytes,
    "closing": closing_bytes,
    "SentencePiece": sentence_pieces,
}
