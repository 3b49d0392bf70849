"""The machine: its disk, devices, cores, memory and signals. May import config and errors."""
