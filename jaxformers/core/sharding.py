"""Meshes and sharding rules: a table from logical axis names to mesh axes, kept outside the models.

Logical names: batch length embed heads kv_heads mlp vocab expert layers conv state pixels.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]

REPLICATED: Rules = ()
DATA: Rules = (("batch", ("data", "fsdp")),)
FSDP: Rules = (("batch", ("data", "fsdp")), ("embed", "fsdp"))
TENSOR: Rules = (
    ("batch", ("data", "fsdp")),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("mlp", "tensor"),
    ("vocab", "tensor"),
)
FSDP_TENSOR: Rules = (*TENSOR, ("embed", "fsdp"))
EXPERT: Rules = (*FSDP_TENSOR, ("expert", "expert"))

_ACTIVE: ContextVar[tuple[Mesh, Rules] | None] = ContextVar("jaxformers_sharding", default=None)
_LOGGED: set[tuple[Any, ...]] = set()
log = logging.getLogger("jaxformers")


def make_mesh(axes: Mapping[str, int] | None = None, *, devices: Sequence[Any] | None = None, **sizes: int) -> Mesh:
    """Lay devices out in a mesh with named axes: `make_mesh(fsdp=2, tensor=4)`; one size may be -1, "what is left"."""
    sizes = {**(axes or {}), **sizes}
    devices = list(jax.devices() if devices is None else devices)
    known = 1
    for size in sizes.values():
        known *= size if size > 0 else 1
    sizes = {k: len(devices) // known if v == -1 else v for k, v in sizes.items()}
    total = 1
    for size in sizes.values():
        total *= size
    if total != len(devices):
        raise ValueError(f"mesh {sizes} has {total} places for {len(devices)} devices; their product must be equal")
    # The default, Explicit, makes sharding part of every array's type; our rules need Auto.
    kinds = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds, devices=devices)


def auto_mesh(mesh: Mesh, rules: Rules) -> Mesh:
    """The same mesh with Auto axes, as our rules need. Raises ValueError when the rules name none of its axes."""
    known = {axis for _, axes in rules for axis in ((axes,) if isinstance(axes, str) else axes or ())}
    if known and not known & set(mesh.axis_names):
        raise ValueError(
            f"the mesh has axes {mesh.axis_names}, the rules name {sorted(known)}: rename one or the other"
        )
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def spec(
    names: Sequence[str | None], shape: Sequence[int], mesh: Mesh, rules: Rules, *, say: bool = False
) -> PartitionSpec:
    """Resolve logical axis names to a PartitionSpec, dropping mesh axes that are absent, taken, or do not divide."""
    table = dict(rules)
    used: set[str] = set()
    out: list[tuple[str, ...] | str | None] = []
    for name, size in zip(names, shape, strict=True):
        wanted = table.get(name) if name is not None else None
        chosen: list[str] = []
        parts = 1
        for axis in (wanted,) if isinstance(wanted, str) else wanted or ():
            if axis not in mesh.shape or axis in used:
                continue
            if size % (parts * mesh.shape[axis]):
                if say:
                    log_once(name, size, axis, mesh.shape[axis])
                continue
            chosen.append(axis)
            parts *= mesh.shape[axis]
        used.update(chosen)
        out.append(None if not chosen else chosen[0] if len(chosen) == 1 else tuple(chosen))
    return PartitionSpec(*out)


def log_once(name: str | None, size: int, axis: str, parts: int) -> None:
    """Say once that an axis stays whole because it does not divide."""
    if (name, size, axis, parts) not in _LOGGED:
        _LOGGED.add((name, size, axis, parts))
        log.warning(
            "axis %r of size %d does not divide by mesh axis %r of size %d: it stays whole", name, size, axis, parts
        )


def shardings(boxed: Any, mesh: Mesh, rules: Rules) -> Any:
    """A NamedSharding for every leaf of a tree of parameters that carry logical names (`nn.LogicallyPartitioned`)."""

    def one(leaf: Any) -> NamedSharding:
        names = leaf.names if isinstance(leaf, nn.LogicallyPartitioned) else (None,) * len(leaf.shape)
        value = leaf.value if isinstance(leaf, nn.LogicallyPartitioned) else leaf
        return NamedSharding(mesh, spec(names, value.shape, mesh, rules, say=True))

    return jax.tree.map(one, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


@contextmanager
def use_mesh(mesh: Mesh | None, rules: Rules = FSDP) -> Iterator[None]:
    """Make `constrain` act while a model is traced; a mesh of None changes nothing."""
    token = _ACTIVE.set(None if mesh is None else (mesh, rules))
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def mesh_in_use() -> Mesh | None:
    """The mesh a model is being traced for."""
    active = _ACTIVE.get()
    return None if active is None else active[0]


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Pin an activation's sharding by logical names; without a mesh in use, return it as it is."""
    active = _ACTIVE.get()
    if active is None:
        return x
    mesh, rules = active
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec(names, x.shape, mesh, rules)))
