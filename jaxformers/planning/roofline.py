"""How long a step takes at least: products at the chip's peak, bytes at the memory's speed, exchanges at the links'.

The times are bounds, not measurements. The forward pass counts once more when activations are computed again, and once
more in a pipeline, whose idle ticks count as if they computed. Memory traffic is what must move whatever the compiler
does: parameters and optimiser state read and written once, gathered parameters written and read, and every temporary
byte written and read once.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from jaxformers.planning.compiled import Compiled
from jaxformers.planning.hlo import Collective
from jaxformers.planning.topology import Topology


@dataclass(frozen=True)
class Bounds:
    """Seconds of a step on each of a chip's limits."""

    compute: float
    memory: float
    links: float  # between the chips of a slice, or the GPUs of a machine
    network: float  # between slices or machines

    @property
    def overlapped(self) -> float:
        """The step if everything runs at the same time: the longest of all."""
        return max(self.compute, self.memory, self.links, self.network)

    @property
    def serial(self) -> float:
        """The step if exchanges never overlap with computation."""
        return max(self.compute, self.memory) + self.links + self.network


def bounds(compiled: Compiled, flops: float, topology: Topology, numbers: np.ndarray) -> Bounds:
    """The bounds of a step. flops: all that is computed, again or in vain included. numbers: the slice or machine of
    each device, in the mesh's order.
    """
    chip, memory = topology.chip, compiled.memory
    gathered = sum(one.moved * one.runs for one in compiled.exchanges if one.kind == "all-gather")
    moved = 2 * (memory.parameters + memory.optimizer + memory.temporary + gathered) + memory.batch
    inside, outside = split(compiled.exchanges, numbers)
    return Bounds(
        flops / (topology.size * chip.flops), moved / chip.bandwidth, inside / chip.link, outside / chip.network
    )


def split(exchanges: list[Collective], numbers: np.ndarray) -> tuple[float, float]:
    """Bytes that each device sends over the fast links, and over the network between slices or machines.

    A group that spans n of them sends (n - 1) / n of its bytes over the network in rings of one device from each, and
    the rest over the links.
    """
    parts = [shared(one, numbers) for one in exchanges]
    return sum((inside for inside, _ in parts), 0.0), sum((outside for _, outside in parts), 0.0)


def shared(one: Collective, numbers: np.ndarray) -> tuple[float, float]:
    """What one exchange sends over the links and over the network, all its runs together."""
    moved, size = one.moved * one.runs, len(one.group)
    if one.between_slices:
        return 0.0, moved
    spans = len({int(numbers[member]) for member in one.group})
    if spans == 1:
        return moved, 0.0
    # In two stages: whole arrays within, then each device's part across.
    return (0.0, moved) if spans == size else (moved, moved * spans / size)


@dataclass(frozen=True)
class Traffic:
    """What exchanges of one kind come to in a step: how many, and the bytes that each device sends."""

    runs: int
    bytes: float
    network: float  # bytes of them, or of their second stage, that go between slices or machines


def by_kind(exchanges: list[Collective], numbers: np.ndarray) -> dict[str, Traffic]:
    """The exchanges by kind. numbers: the slice or machine of each device."""
    found: dict[str, list[Collective]] = defaultdict(list)
    for one in exchanges:
        found[one.kind].append(one)
    return {
        kind: Traffic(sum(one.runs for one in same), sum(one.runs * one.moved for one in same), split(same, numbers)[1])
        for kind, same in sorted(found.items())
    }


def places(topology: Topology, devices: np.ndarray) -> np.ndarray:
    """The slice or machine of each device, in the mesh's order."""
    flat = devices.ravel()
    if topology.is_gpu:
        # A description without machines numbers the GPUs through them.
        return np.asarray([device.id // topology.neighbours for device in flat])
    return np.asarray([getattr(device, "slice_index", 0) or 0 for device in flat])
