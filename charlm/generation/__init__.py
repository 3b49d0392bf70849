"""From logits to ids, and from ids to text. May import the engine, the tokenizer and what is below; not torch."""
