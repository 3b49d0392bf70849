"""What training saves: folders that are complete or absent. May import corpus, tokenizer and below; no torch."""
