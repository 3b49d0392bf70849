"""Training: the loop, its state, the recipe, and what is saved. Uses torch; may import every package below."""
