"""Tensors that a checkpoint holds and no model computes with: kept beside the parameters and written back as they were.

BatchNorm's counters are all there are of them. As parameters they would be integers among floats, which gradients and
optimisers refuse, and JAX would cut their 64 bits to 32.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxformers.core.keymap import join
from jaxformers.hub.safetensors import Entry

CARRIED = re.compile(r"\.num_batches_tracked$")


@dataclass(frozen=True)
class Carried:
    """One such tensor, as a value that hashes and compares."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def array(self) -> np.ndarray:
        """The tensor."""
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)


def read_carried(tensors: Mapping[str, np.ndarray], prefix: str, saved: str) -> tuple[Carried, ...]:
    """All of a checkpoint that holds the backbone at `prefix`, under the keys of one that has it at `saved`."""
    out = []
    start = f"{prefix}." if prefix else ""
    for key in tensors:
        if CARRIED.search(key):
            tensor = np.asarray(tensors[key])
            name = join(saved, key.removeprefix(start)) if key.startswith(start) else key
            out.append(Carried(name, str(tensor.dtype), tensor.shape, tensor.tobytes()))
    return tuple(out)


def carried_entries(carried: tuple[Carried, ...]) -> dict[str, Entry]:
    """What to write for them."""
    return {one.key: Entry(one.shape, np.dtype(one.dtype), one.array) for one in carried}
