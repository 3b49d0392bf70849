"""Training: the loop, what it keeps, and what steers it. Uses torch; may import every room below."""
