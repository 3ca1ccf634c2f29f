"""The root helper: a process of its own that reads what needs root, and runs steps whose signature it verified."""
