"""The network and its recurrences, in torch. May import native, system, config and errors."""
