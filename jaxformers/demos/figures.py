"""How long each step of a demo took, shown as a table when it is over."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Figures:
    """Steps with their seconds and a remark, in the order they were added."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []

    def add(self, step: str, seconds: float, remark: str = "") -> None:
        """Note a step."""
        self.rows.append((step, f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms", remark))

    @contextmanager
    def timed(self, step: str) -> Iterator[list[str]]:
        """Note how long what is done inside takes, with the remarks that were put in the list."""
        start, remarks = time.perf_counter(), []
        yield remarks
        self.add(step, time.perf_counter() - start, ", ".join(remarks))

    def show(self) -> None:
        """Print the table."""
        from rich.console import Console
        from rich.table import Table

        table = Table("step", "time", "", title="figures", title_justify="left", show_edge=False)
        for row in self.rows:
            table.add_row(*row)
        Console().print(table)
