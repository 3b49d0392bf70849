"""The command line: words to calls and results to words, nothing else."""
