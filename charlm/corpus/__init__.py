"""Texts, and the ids that are made of them. May import tokenizer, system, config and errors; no torch."""
