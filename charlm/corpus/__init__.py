"""Texts to ids on disk, read as chunks. May import tokenizer, system and below; no torch."""
