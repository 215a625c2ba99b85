"""The tiny models' tokenizers: one token a word, cut at blanks and punctuation."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

# "doesn't" stays whole, so that an agreeing auxiliary is one token; "France's" is cut before "'s".
WORD = r"\w+?n't|\w+|'s|[^\w\s]"
MAX_LENGTH = 64
END_OF_TEXT = "<|endoftext|>"


def _word_level(special: list[str], texts: Iterable[str]) -> Tokenizer:
    splitter = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    vocabulary = {word: index for index, word in enumerate([*special, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = splitter
    # Puts a blank before every token but punctuation, "'s" and the like; the "##" never occurs.
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return tokenizer


def masked_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """BERT's tokenizer: ``[CLS] words [SEP]``."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = _word_level(special, texts)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def causal_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """GPT-2's tokenizer: ``<|endoftext|> words``."""
    tokenizer = _word_level(["[PAD]", "[UNK]", END_OF_TEXT], texts)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A",
        pair=f"{END_OF_TEXT} $A {END_OF_TEXT} $B",
        special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
