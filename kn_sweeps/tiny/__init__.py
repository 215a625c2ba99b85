"""What makes the tiny models: their grammar, sentences, tokenizers and training."""
