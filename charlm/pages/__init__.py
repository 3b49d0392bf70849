"""HTML of coloured text, for files, notebooks and servers. Imports neither numpy nor torch."""
