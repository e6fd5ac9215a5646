"""The transforms there are, by what they do."""
