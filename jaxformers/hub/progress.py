"""One progress bar for long work, on a terminal only unless asked for."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SMALL = 64 << 20  # not worth a bar


@contextmanager
def byte_bar(what: str, total: int, show: bool | None = None) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the bytes done. show: None shows it on a terminal for more than 64 MB."""
    if show is None:
        show = total > SMALL and sys.stderr.isatty()
    if not show:
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task, n)
