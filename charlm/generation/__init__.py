"""From logits to ids, and from ids to text. May import engine, tokenizer and below; no torch."""
