"""Meshes: devices laid out in named axes, over one machine, a pod, or several slices joined by a slower network."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

Devices = Sequence[Any] | Literal["global", "local"] | None
# Axes in the order in which they bear a slow network: the first exchange least, or can hide it.
PATIENT = ("stage", "data", "fsdp", "expert", "sequence", "tensor")


def make_mesh(
    axes: Mapping[str, int] | None = None,
    *,
    devices: Devices = None,
    dcn: Mapping[str, int] | None = None,
    **sizes: int,
) -> Mesh:
    """Lay devices out in a mesh with named axes: `make_mesh(fsdp=2, tensor=4)`; one size may be -1, "what is left".

    The axes our rules name are data, fsdp, tensor, sequence, expert and stage; write those that exchange most last.
    devices: all of the job's (None or "global"), this process's ("local"), or a list. dcn: in how many parts each axis
    is cut over slices (of TPUs) or hosts (of GPUs); by default the axes that bear a slow network best are cut.
    Raises ValueError when the sizes do not fit the devices.
    """
    chosen = list_devices(devices)
    shape = fill_sizes({**(axes or {}), **sizes}, len(chosen))
    key = granule_key(chosen, asked=dcn is not None)
    if dcn is None:
        must = chosen[0].platform == "tpu"
        dcn = {} if key is None else spread_granules(shape, count_granules(chosen, key), must=must)
    if dcn:
        grid = hybrid_grid(shape, dcn, chosen, key or "process_index")
    else:
        grid = split_if_needed(mesh_utils.create_device_mesh, tuple(shape.values()), devices=chosen)
    # The default, Explicit, makes sharding part of every array's type; our rules need Auto.
    return Mesh(grid, tuple(shape), axis_types=(AxisType.Auto,) * len(shape))


def abstract_mesh(axes: Mapping[str, int] | None = None, **sizes: int) -> AbstractMesh:
    """A mesh without devices, for tables and shapes: `abstract_mesh(fsdp=64, tensor=8)`."""
    shape = {**(axes or {}), **sizes}
    if not shape or any(size < 1 for size in shape.values()):
        raise ValueError(f"mesh {shape} has no devices to count: give every axis a size of 1 or more")
    return AbstractMesh(tuple(shape.values()), tuple(shape), axis_types=(AxisType.Auto,) * len(shape))


def read_mesh(text: str) -> dict[str, int]:
    """Axes from "fsdp=2,tensor=4". Raises ValueError for anything else."""
    out: dict[str, int] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, size = part.partition("=")
        if not name.strip().isidentifier() or not size.strip().lstrip("-").isdigit() or name.strip() in out:
            raise ValueError(f"mesh {text!r} is not understood at {part!r}; expected axes such as fsdp=2,tensor=4")
        out[name.strip()] = int(size)
    return out


def list_devices(devices: Devices) -> list[Any]:
    """The devices that are meant."""
    if devices is None or devices == "global":
        return list(jax.devices())
    if isinstance(devices, str):
        if devices != "local":
            raise ValueError(f"devices is {devices!r}; expected 'global', 'local' or a list of devices")
        return list(jax.local_devices())
    return list(devices)


def fill_sizes(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """The sizes with -1 replaced by what is left of `count` devices. Raises ValueError unless they fit exactly."""
    if sum(size == -1 for size in sizes.values()) > 1 or any(size < -1 or size == 0 for size in sizes.values()):
        raise ValueError(f"mesh {dict(sizes)}: sizes are 1 or more, and one of them may be -1, what is left")
    known = math.prod(size for size in sizes.values() if size > 0)
    out = {name: count // known if size == -1 else size for name, size in sizes.items()}
    total = math.prod(out.values())
    if total != count:
        raise ValueError(f"mesh {out} has {total} places for {count} devices; their product must be equal")
    return out


def granule_key(devices: Sequence[Any], *, asked: bool) -> str | None:
    """The attribute that tells which group of quickly joined devices one belongs to; None when there is one group.

    Slices where there are several, else processes: those of GPUs are hosts, unless each holds one GPU alone. asked: the
    caller knows that the processes of any platform are such groups.
    """
    if len({getattr(d, "slice_index", None) for d in devices}) > 1:
        return "slice_index"
    processes = count_granules(devices, "process_index")
    hosts = devices[0].platform == "gpu" and 1 < processes < len(devices)
    return "process_index" if hosts or asked and processes > 1 else None


def count_granules(devices: Sequence[Any], key: str) -> int:
    """How many groups there are."""
    return len({getattr(d, key) for d in devices})


def spread_granules(shape: Mapping[str, int], granules: int, *, must: bool) -> dict[str, int]:
    """Cut axes by the number of granules, those that bear it best first.

    Raises ValueError when they do not divide and `must` says that there is no other way; else returns nothing.
    """
    left, out = granules, {}
    for name in sorted(shape, key=lambda n: PATIENT.index(n) if n in PATIENT else 1):
        cut = math.gcd(shape[name], left)
        if cut > 1:
            out[name], left = cut, left // cut
    if left > 1 and must:
        raise ValueError(f"mesh {dict(shape)} does not divide over {granules} slices; give an axis a multiple of it")
    return out if left == 1 else {}


def hybrid_grid(shape: Mapping[str, int], dcn: Mapping[str, int], devices: Sequence[Any], key: str) -> np.ndarray:
    """Devices in a grid whose axes run over groups first, as `dcn` says, and then inside each."""
    wrong = [name for name, cut in dcn.items() if name not in shape or cut < 1 or shape[name] % cut]
    if wrong:
        raise ValueError(f"dcn {dict(dcn)} does not divide the mesh {dict(shape)}: see {wrong[0]!r}")
    outer = tuple(dcn.get(name, 1) for name in shape)
    groups, named = count_granules(devices, key), math.prod(outer)
    if named != groups:
        kind = "slices" if key == "slice_index" else "processes"
        raise ValueError(f"dcn {dict(dcn)} names {named} parts; the devices lie in {groups} {kind}")
    inner = tuple(shape[name] // dcn.get(name, 1) for name in shape)
    options = {"devices": devices, "process_is_granule": key == "process_index"}
    return split_if_needed(mesh_utils.create_hybrid_device_mesh, inner, outer, **options)


def split_if_needed(build: Callable[..., np.ndarray], *args: Any, **options: Any) -> np.ndarray:
    """Call with whole axes of a torus if the shape allows it: a split one has less bandwidth."""
    try:
        return build(*args, **options)
    except NotImplementedError:
        return build(*args, **options, allow_split_physical_axes=True)
