"""The vocabulary: linen modules, one idea per file. An unbound module is its own hashable config."""
