"""How well a model predicts a text. May import generation, engine and what is below; only ``dynamic`` uses torch."""
