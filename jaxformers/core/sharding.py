"""Sharding rules: a table from logical axis names to mesh axes, kept outside the models.

Logical names: batch length keys embed heads kv_heads mlp vocab expert layers conv state pixels. Of two entries with one
name the later counts, so `(*FSDP, ("vocab", "tensor"))` changes a preset.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

AnyMesh = Mesh | AbstractMesh
Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]

# Parameters are cut over every axis along which devices compute with other tokens: that is ZeRO-3.
REPLICATED: Rules = ()
DATA: Rules = (("batch", ("data", "fsdp")),)
FSDP: Rules = (*DATA, ("embed", "fsdp"))
TENSOR: Rules = (*DATA, ("heads", "tensor"), ("kv_heads", "tensor"), ("mlp", "tensor"), ("vocab", "tensor"))
FSDP_TENSOR: Rules = (*TENSOR, ("embed", "fsdp"))
EXPERT: Rules = (
    *FSDP_TENSOR,
    ("batch", ("data", "fsdp", "expert")),
    ("embed", ("fsdp", "expert")),
    ("expert", "expert"),
)
# ("keys", "sequence"): keys go round a ring of devices; ("keys", None): each device gathers all of them.
SEQUENCE: Rules = (*FSDP_TENSOR, ("embed", ("fsdp", "sequence")), ("length", "sequence"), ("keys", "sequence"))


def axes_of(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes in one entry of a PartitionSpec."""
    return (entry,) if isinstance(entry, str) else tuple(entry or ())


def in_stages(rules: Rules, axis: str = "stage") -> Rules:
    """The rules with stacked layers in stages along a mesh axis; all else is cut along it as it is along `data`.

    That is: the batch and, as in ZeRO-3, what parameters lie outside of the stages, by `embed`.
    """
    table = dict(rules)
    batch, embed = ((*axes_of(table.get(name)), axis) for name in ("batch", "embed"))
    return (*rules, ("batch", batch), ("embed", embed), ("layers", axis))


PIPELINE: Rules = in_stages(FSDP_TENSOR)
PRESETS: dict[str, Rules] = {
    "REPLICATED": REPLICATED,
    "DATA": DATA,
    "FSDP": FSDP,
    "TENSOR": TENSOR,
    "FSDP_TENSOR": FSDP_TENSOR,
    "EXPERT": EXPERT,
    "SEQUENCE": SEQUENCE,
    "PIPELINE": PIPELINE,
}

_ACTIVE: ContextVar[tuple[Mesh, Rules] | None] = ContextVar("jaxformers_sharding", default=None)
_LOGGED: set[tuple[Any, ...]] = set()
log = logging.getLogger("jaxformers")


def check_axes(mesh: AnyMesh, rules: Rules) -> None:
    """Raise ValueError when the rules name axes and the mesh has none of them."""
    known = {axis for _, axes in rules for axis in (axes_of(axes))}
    if known and not known & set(mesh.axis_names):
        raise ValueError(
            f"the mesh has axes {mesh.axis_names}, the rules name {sorted(known)}: rename one or the other"
        )


def auto_mesh(mesh: Mesh, rules: Rules) -> Mesh:
    """The same mesh with Auto axes, as our rules need. Raises ValueError when the rules name none of its axes."""
    check_axes(mesh, rules)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def spec(
    names: Sequence[str | None], shape: Sequence[int], mesh: AnyMesh, rules: Rules, *, say: bool = False
) -> PartitionSpec:
    """Resolve logical axis names to a PartitionSpec, dropping mesh axes that are absent, taken, or do not divide."""
    table, free = dict(rules), free_axes(mesh)
    used: set[str] = set()
    out: list[tuple[str, ...] | str | None] = []
    for name, size in zip(names, shape, strict=True):
        wanted = table.get(name) if name is not None else None
        chosen: list[str] = []
        parts = 1
        for axis in axes_of(wanted):
            if axis not in free or axis in used:
                continue
            if size % (parts * free[axis]):
                if say:
                    log_once(name, size, axis, free[axis])
                continue
            chosen.append(axis)
            parts *= free[axis]
        used.update(chosen)
        out.append(None if not chosen else chosen[0] if len(chosen) == 1 else tuple(chosen))
    return PartitionSpec(*out)


def free_axes(mesh: AnyMesh) -> dict[str, int]:
    """Sizes of the axes that may still be cut along: inside a `shard_map` those that it maps are taken."""
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name: mesh.shape[name] for name, kind in kinds if kind != AxisType.Manual}


def log_once(name: str | None, size: int, axis: str, parts: int) -> None:
    """Say once that an axis stays whole because it does not divide."""
    if (name, size, axis, parts) not in _LOGGED:
        _LOGGED.add((name, size, axis, parts))
        log.warning(
            "axis %r of size %d does not divide by mesh axis %r of size %d: it stays whole", name, size, axis, parts
        )


def named_shardings(boxed: Any, mesh: AnyMesh, rules: Rules) -> Any:
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


def mesh_and_rules() -> tuple[AnyMesh, Rules] | None:
    """The mesh in use and its rules; inside a `shard_map` the mesh as it stands there, with the mapped axes taken."""
    active = _ACTIVE.get()
    if active is None:
        return None
    here = jax.sharding.get_abstract_mesh()
    inside = not here.empty and AxisType.Manual in here.axis_types
    return (here, active[1]) if inside else active


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Pin an activation's sharding by logical names; without a mesh in use, return it as it is."""
    active = mesh_and_rules()
    if active is None:
        return x
    mesh, rules = active
    # One token or one row is what decoding is about, and no news.
    shown = tuple(None if size == 1 else name for name, size in zip(names, x.shape, strict=True))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec(shown, x.shape, mesh, rules, say=True)))


def over_shards(
    f: Callable[..., Any], in_specs: Any, out_specs: Any, mesh: AnyMesh | None = None
) -> Callable[..., Any]:
    """`f` on every device's own parts, over all free axes of the mesh in use; `f` exchanges what it needs itself.

    Outputs must be equal along axes that `out_specs` does not name. A gradient is traced when its function's mesh is no
    longer in use, and names it. Raises ValueError when there is no mesh.
    """
    active = mesh_and_rules()
    if mesh is None and active is None:
        raise ValueError("there are no shards: no mesh is in use; call inside `use_mesh(mesh, rules)`")
    mesh = active[0] if mesh is None else mesh  # type: ignore[index]
    names = frozenset(free_axes(mesh))
    return jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, axis_names=names, check_vma=False)
