"""Sizes that programs are compiled for: a length or a batch is rounded up to one of few."""

LEAST_LENGTH = 16


def length_bucket(length: int, least: int = LEAST_LENGTH) -> int:
    """The least of 16, 32, 48, 64, 96, 128, 192, 256, 384, ... that holds `length`."""
    size = least
    while size < length:
        size *= 2
    middle = size * 3 // 4
    return middle if size > 2 * least and middle >= length else size


def row_bucket(rows: int) -> int:
    """The least power of two that holds `rows`."""
    return 1 << max(rows - 1, 0).bit_length()
