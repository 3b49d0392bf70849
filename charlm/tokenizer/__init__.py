"""Text to ids and back, losslessly. May import config and errors; no torch."""
