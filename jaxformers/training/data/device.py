"""From host batches to global arrays: each process gives its rows, jax puts them where the mesh wants them."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxformers.core.sharding import DATA, Rules, spec

NARROW = {np.dtype(np.int64): np.int32, np.dtype(np.uint64): np.uint32, np.dtype(np.float64): np.float32}


def to_device(batch: Mapping[str, Any], mesh: Mesh | None = None, rules: Rules = DATA) -> dict[str, jax.Array]:
    """The batch as arrays on the devices, its first axis split as the rules split "batch".

    With several processes each gives the rows that `host_share` says are its own. 64-bit numbers become 32-bit ones.
    Raises OverflowError for integers that do not fit.
    """
    return {name: one_to_device(name, value, mesh, rules) for name, value in batch.items()}


def one_to_device(name: str, value: Any, mesh: Mesh | None, rules: Rules) -> jax.Array:
    """One array of a batch on the devices."""
    value = narrow(name, value)
    if mesh is None:
        return jax.device_put(value)
    if value.ndim == 0:
        return jax.device_put(value, NamedSharding(mesh, PartitionSpec()))
    rows = value.shape[0] * host_count(mesh, rules, value.shape[0])
    sharding = NamedSharding(mesh, spec(("batch",), (rows,), mesh, rules, say=True))
    return jax.make_array_from_process_local_data(sharding, value, (rows, *value.shape[1:]))


def narrow(name: str, value: Any) -> np.ndarray:
    """An array in a type that jax keeps. Raises OverflowError for integers beyond 32 bits, TypeError for objects."""
    value = np.asarray(value)
    if value.dtype.kind not in "biufcV":
        raise TypeError(f"{name!r} of the batch is an array of {value.dtype}; models take numbers: drop this field")
    wanted = None if jax.config.jax_enable_x64 else NARROW.get(value.dtype)
    if wanted is None:
        return value
    if value.dtype.kind in "iu" and value.size:
        limits = np.iinfo(wanted)
        if value.min() < limits.min or value.max() > limits.max:
            raise OverflowError(f"{name!r} of the batch holds {value.min()}..{value.max()}, beyond {limits.dtype}")
    return value.astype(wanted)


def host_share(mesh: Mesh, rules: Rules, batch_size: int, process: int | None = None) -> tuple[int, int]:
    """Which part of a batch this process reads: `(index, count)`, to give DataLoader as process_index, process_count.

    Processes whose devices hold the same rows, since another axis divides them, read the same part. Raises ValueError
    when the mesh cuts the rows so that parts overlap.
    """
    process = jax.process_index() if process is None else process
    owned, parts = row_parts(mesh, rules, batch_size)
    return parts.index(owned[process]), len(parts)


@lru_cache(maxsize=256)
def row_parts(mesh: Mesh, rules: Rules, rows: int) -> tuple[dict[int, tuple], list[tuple]]:
    """The ranges of rows that each process's devices hold, and the different ones in order."""
    sharding = NamedSharding(mesh, spec(("batch",), (rows,), mesh, rules))
    ranges: dict[int, set[tuple[int, int]]] = {}
    for device, (part,) in sharding.devices_indices_map((rows,)).items():
        ranges.setdefault(device.process_index, set()).add(part.indices(rows)[:2])
    owned = {process: tuple(sorted(found)) for process, found in ranges.items()}
    parts = sorted(set(owned.values()))
    if sum(stop - start for part in parts for start, stop in part) != rows:
        raise ValueError(
            f"the mesh {dict(mesh.shape)} gives processes rows that overlap in part: {owned}; "
            "order its axes so that those that divide the batch come first"
        )
    return owned, parts


@lru_cache(maxsize=256)
def host_count(mesh: Mesh, rules: Rules, local_rows: int) -> int:
    """How many different parts there are when each has `local_rows` rows."""
    processes = len({device.process_index for device in mesh.devices.flat})
    for count in range(processes, 1, -1):
        if processes % count == 0 and len(row_parts(mesh, rules, local_rows * count)[1]) == count:
            return count
    return 1
