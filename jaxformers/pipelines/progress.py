"""A progress bar over batches, shown when there are many and someone watches."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
SHOW_FROM = 16  # batches; less is over before a progress bar is read


def progress(batches: Sequence[T], show: bool | None, label: str) -> Iterator[T]:
    """Go through the batches with a bar on stderr. show: None decides by their number, False never shows it."""
    if show is False or (show is None and len(batches) < SHOW_FROM):
        yield from batches
        return
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(batches, label, console=console, transient=True, disable=not console.is_terminal)
