"""Few sizes instead of many: what keeps a jitted model from compiling for every length and batch."""


def bucket(size: int, least: int, most: int) -> int:
    """The next size of the series least * 1, 1.5, 2, 3, 4, 6, 8, ..., at most `most`, and never below `size`."""
    value = least
    while value < size:
        value = value * 3 // 2 if size <= value * 3 // 2 else value * 2
    return max(size, min(value, most))
