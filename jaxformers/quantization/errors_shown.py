"""The table of quantisation errors for a terminal."""

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from jaxformers.hub.shardings_shown import readable, sizes
from jaxformers.quantization.errors import QuantizationErrors


def table(found: QuantizationErrors, *, every: bool = False) -> Group:
    """All quantised matrices, layers that are alike on one line unless `every` is wanted, and the sums."""
    columns = Table(show_edge=False, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns.add_column("matrix", overflow="fold")
    for name in ("layers", "shape", "stored as", "mean error", "worst", "bits", "bytes before", "after"):
        columns.add_column(name, justify="right", overflow="fold")
    for name, rows in [(row.path, [row]) for row in found] if every else found.groups():
        row, errors = rows[0], [one.error for one in rows]
        kind = row.kind if row.group_size is None else f"{row.kind}/{row.group_size}"
        mean, worst = (f"{100 * error:.3f} %" for error in (sum(errors) / len(errors), max(errors)))
        cells = (name, str(len(rows)), sizes(row.shape), kind, mean, worst, f"{row.bits:.2f}")
        before, after = (readable(sum(getattr(one, end) for one in rows)) for end in ("before", "after"))
        columns.add_row(*map(Text, (*cells, before, after)))
    return Group(columns, Text(summary(found)))


def summary(found: QuantizationErrors) -> str:
    """The sums in two lines."""
    worst = found.worst
    share = found.bytes_after / max(found.bytes_before, 1)
    return (
        f"errors are |W - quantised| / |W|; the largest is {100 * worst.error:.3f} % at {worst.path}\n"
        f"{readable(found.bytes_before)} of parameters before, {readable(found.bytes_after)} after, {100 * share:.0f} %"
    )
