"""Block sizes of the kernels, from a table by device and shape that is kept beside this file."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LANES = 128  # a block's length is a multiple of it


@dataclass(frozen=True)
class Blocks:
    """Rows of queries and of keys that each kernel holds at a time."""

    forward: tuple[int, int] = (512, 512)
    queries: tuple[int, int] = (512, 512)  # the kernel that computes the queries' gradient
    keys: tuple[int, int] = (512, 512)  # the kernel that computes the keys' and values' gradients


@cache
def table() -> dict[str, list[dict]]:
    """{device kind: rows}; see blocks.json."""
    return json.loads((Path(__file__).parent / "blocks.json").read_text(encoding="utf-8"))


def blocks_for(device_kind: str, dim: int, itemsize: int) -> Blocks:
    """The first row that fits: `dim` is the larger head dimension, `itemsize` bytes of a number."""
    known = table()
    for row in known.get(device_kind, known["default"]):
        if dim <= row["dim"] and itemsize <= row["itemsize"]:
            return Blocks(tuple(row["forward"]), tuple(row["queries"]), tuple(row["keys"]))
    raise NotImplementedError(f"blocks.json has no row for head dimension {dim} with {itemsize} bytes a number")


def fit(length: int, block: int) -> tuple[int, int]:
    """Block and padded length for a length: blocks of equal size, as large as asked for, with little padding."""
    whole = -(-length // LANES) * LANES
    count = -(-whole // block)
    size = -(-whole // (count * LANES)) * LANES
    return size, size * count
