"""Tables and drawings of shardings for a terminal, after `jax.debug.visualize_sharding`; no device is asked."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from jax.sharding import Mesh
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from jaxformers.core.sharding import AnyMesh
from jaxformers.hub.shardings import Placed, Shardings

MOST = 16  # rows and columns drawn of one parameter
COLORS = ("cyan", "magenta", "green", "yellow", "blue", "red", "bright_cyan", "bright_magenta")


def readable(count: float) -> str:
    """Bytes in a readable unit: powers of 1024, as memory is sold."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} TiB"


def shown_mesh(mesh: AnyMesh) -> str:
    """The mesh's axes as they are written: "fsdp=2, tensor=4 (8 devices)"."""
    return f"{', '.join(f'{name}={size}' for name, size in mesh.shape.items())} ({mesh.size} devices)"


def shown_spec(row: Placed) -> str:
    """Each axis with its logical name and where it is cut: "mlp:tensor, embed:fsdp", "-" for one that is whole."""
    names = row.names or (None,) * len(row.shape)
    cut = ("+".join(axes) or "-" for axes in row.axes)
    return ", ".join(f"{name or '.'}:{axes}" for name, axes in zip(names, cut, strict=True))


def table(found: Shardings, *, every: bool = False) -> Group:
    """All parameters, layers that are alike on one line unless `every` is wanted, and the sums."""
    columns = Table(show_edge=False, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns.add_column("parameter", overflow="fold")
    columns.add_column("layers", justify="right")
    for name in ("shape", "cut along", "on a device"):
        columns.add_column(name, overflow="fold")
    columns.add_column("bytes there", justify="right")
    for name, rows in [(row.path, [row]) for row in found] if every else found.groups():
        row = rows[0]
        cut = ", ".join("+".join(axes) or "-" for axes in row.axes)
        cells = (name, str(len(rows)), sizes(row.shape), cut, sizes(row.shard))
        columns.add_row(*map(Text, cells), readable(len(rows) * row.bytes_per_device))
    return Group(Text(shown_mesh(found.mesh), style="bold"), columns, Text(summary(found)))


def sizes(shape: tuple[int, ...]) -> str:
    """A shape as "4096,1024"."""
    return ",".join(map(str, shape))


def summary(found: Shardings) -> str:
    """The sums in two lines."""
    share = found.bytes_per_device * found.mesh.size / max(found.bytes, 1)
    kinds = ", ".join(sorted({str(row.dtype) for row in found}))
    return (
        f"{found.parameters:,} parameters ({kinds}), {readable(found.bytes)} in all\n"
        f"{readable(found.bytes_per_device)} on each device; on average {share:.2f} devices keep the same number"
    )


def text(found: Any, width: int = 140) -> str:
    """Anything that rich prints, as plain text."""
    out = Console(width=width, color_system=None, force_terminal=False)
    with out.capture() as captured:
        out.print(found)
    return captured.get().rstrip("\n")


def holders(row: Placed) -> np.ndarray:
    """The numbers of the devices that hold each part: [parts of axis 0, parts of axis 1, ..., copies]."""
    mesh = row.mesh
    numbers = np.arange(mesh.size)
    if isinstance(mesh, Mesh):
        numbers = np.array([device.id for device in mesh.devices.flat])
    order = [axis for axes in row.axes for axis in axes]
    order += [axis for axis in mesh.axis_names if axis not in order]
    grid = numbers.reshape(tuple(mesh.shape.values()))
    grid = grid.transpose([mesh.axis_names.index(axis) for axis in order])
    return grid.reshape(*row.cuts, -1)


def ranges(numbers: Iterable[int]) -> str:
    """Numbers with runs written short: "0-3,8"."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def span(index: int, shard: int, size: int) -> str:
    """The places of a part along an axis, as a slice."""
    return ":" if shard == size else f"{index * shard}:{(index + 1) * shard}"


def drawing(row: Placed) -> Group:
    """A grid of parts, each with the devices that hold it; columns run along the last axis that is cut."""
    cuts = row.cuts
    across = max((n for n, cut in enumerate(cuts) if cut > 1), default=max(len(cuts) - 1, 0))
    held = holders(row)
    grid = Table(box=box.SQUARE, show_lines=True, show_header=bool(cuts))
    grid.add_column("", justify="right")
    width = cuts[across] if cuts else 1
    for n in range(min(width, MOST)):
        grid.add_column(span(n, row.shard[across], row.shape[across]) if cuts else "", justify="center")
    down = [n for n in range(len(cuts)) if n != across]
    places = list(np.ndindex(*(cuts[n] for n in down)))
    for place in places[:MOST]:
        parts = {n: span(i, row.shard[n], row.shape[n]) for n, i in zip(down, place, strict=True)}
        at = dict(zip(down, place, strict=True))
        cells = [held[tuple(at.get(d, n) for d in range(len(cuts)))] for n in range(min(width, MOST))]
        label = ", ".join(parts.get(n, "...") for n in range(len(cuts)))
        grid.add_row(Text(label), *(Text(ranges(cell), style=COLORS[int(min(cell)) % len(COLORS)]) for cell in cells))
    hidden = max(width - MOST, 0) * len(places) + min(width, MOST) * max(len(places) - MOST, 0)
    head = f"{row.path}  {row.dtype}{list(row.shape)}  {shown_spec(row)}"
    foot = f"{math.prod(cuts)} parts of {list(row.shard)}, {readable(row.bytes_per_device)} on a device"
    foot += f", {held.shape[-1]} copies of each" if held.shape[-1] > 1 else ""
    foot += f"; {hidden} parts are not drawn" if hidden else ""
    return Group(Text(head, style="bold"), grid, Text(foot))
