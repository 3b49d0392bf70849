"""How well a model predicts a text. May import generation, engine and below; only ``dynamic`` uses torch."""
