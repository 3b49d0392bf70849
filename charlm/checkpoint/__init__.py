"""What a training saves: directories that are whole or absent. May import corpus, tokenizer and below; no torch."""
