"""The attention op by this library's own kernels: what they cannot do is refused; on a mesh devices get their parts."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxformers.core.mask import Mask
from jaxformers.core.sharding import axes_of, mesh_and_rules, over_shards, spec
from jaxformers.ops.dispatch import target_device, target_platform
from jaxformers.ops.grouped_heads import repeat_heads

FEW = 128  # queries; fewer are not worth blocks of 128 rows
WIDEST = 256  # head dimension
STEPS = 2**16  # blocks that a walk may list, in scalar memory


def flash_tpu(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    *,
    q_slots: jax.Array,
    k_slots: jax.Array,
    scale: float,
    bias: jax.Array | None = None,
    softcap: float | None = None,
    sinks: jax.Array | None = None,
) -> jax.Array:
    """As the attention op, by the Pallas kernel for TPUs; elsewhere, when forced, the kernel is interpreted."""
    check_supported(q, k, v, mask)
    if isinstance(scale, jax.Array) or isinstance(softcap, jax.Array):
        raise NotImplementedError("scale and softcap must be numbers, known when the program is traced")
    local = partial(local_attention, scale, softcap)
    return on_each_device(local, q, k, v, bias, sinks, mask, q_slots, k_slots)


def on_each_device(local: Callable[..., jax.Array], q, k, v, bias, sinks, mask: Mask, q_slots, k_slots) -> jax.Array:
    """`local`, of the same arguments, on each device's own rows, heads and queries; keys must be whole."""
    active = mesh_and_rules()
    arrays = (bias, sinks, mask, q_slots, k_slots)
    if active is None:
        check_unsharded(q, k, v)
        return local(q, k, v, *arrays)
    mesh, rules = active
    b, t, h, _ = spec(("batch", "length", "heads", None), q.shape, mesh, rules)
    if axes_of(spec(("batch", "keys", "kv_heads", None), k.shape, mesh, rules)[1]):
        raise NotImplementedError("the rules cut the keys along the sequence, which takes a ring")
    parts = math.prod(mesh.shape[axis] for axis in axes_of(h))
    k, v = repeat_heads(k, q.shape[2], parts), repeat_heads(v, q.shape[2], parts)
    queries, keys = PartitionSpec(b, t, h, None), PartitionSpec(b, None, h, None)
    specs = (queries, keys, keys, *extra_specs((b, t, h), *arrays))
    return over_shards(local, specs, queries)(q, k, v, *arrays)


def check_supported(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask) -> None:
    """Raise NotImplementedError, with the reason, for what the kernel does not compute."""
    if mask.dense is not None:
        raise NotImplementedError("a dense mask is as large as the scores; give it as padding, segments or a window")
    if q.shape[1] < FEW:
        raise NotImplementedError(f"{q.shape[1]} queries are too few; meant for {FEW} and more")
    if q.dtype not in (jnp.float32, jnp.bfloat16) or not q.dtype == k.dtype == v.dtype:
        found = ", ".join(str(x.dtype) for x in (q, k, v))
        raise NotImplementedError(f"q, k and v are {found}; takes bfloat16 or float32, the same for all")
    widest = max(q.shape[-1], v.shape[-1])
    if widest > WIDEST or q.shape[-1] % 8 or v.shape[-1] % 8:
        raise NotImplementedError(
            f"head dimensions {q.shape[-1]} and {v.shape[-1]}; takes multiples of 8 up to {WIDEST}"
        )


def check_unsharded(*arrays: jax.Array) -> None:
    """Raise NotImplementedError for arrays that lie on several devices: no rules say how to cut them."""
    here = jax.sharding.get_abstract_mesh()
    if not here.empty and all(kind == jax.sharding.AxisType.Manual for kind in here.axis_types):
        return  # inside a shard_map over the whole mesh arrays are one device's own
    for x in arrays:
        mesh = jax.typeof(x).sharding.mesh
        if not mesh.empty and mesh.size > 1:
            raise NotImplementedError("arrays lie on several devices and no mesh is in use: call inside use_mesh")


def extra_specs(axes: tuple, bias: Any, sinks: Any, mask: Mask, q_slots: Any, k_slots: Any) -> tuple:
    """How bias, sinks, mask and slots lie on the mesh; an axis of size 1 is on every device."""
    b, t, h = axes

    def of(x: jax.Array | None, *names: Any) -> PartitionSpec | None:
        if x is None:
            return None
        return PartitionSpec(*(None if size == 1 else name for size, name in zip(x.shape, names, strict=True)))

    rules = mask.replace(
        keys=of(mask.keys, b, None),
        q_segments=of(mask.q_segments, b, t),
        k_segments=of(mask.k_segments, b, None),
        prefix=of(mask.prefix, b),
    )
    return of(bias, b, h, t, None), of(sinks, h), rules, of(q_slots, t), of(k_slots, None)


def local_attention(scale: float, softcap: float | None, q, k, v, bias, sinks, mask, q_slots, k_slots) -> jax.Array:
    """Attention on one device."""
    from jaxformers.kernels.attention.blocks import blocks_for
    from jaxformers.kernels.attention.flash_tpu import flash_attention
    from jaxformers.kernels.attention.tpu_blocks import Settings

    # A whole bias takes as much room as float32 does.
    itemsize = q.dtype.itemsize if bias is None or bias.shape[2] == 1 else max(q.dtype.itemsize, 4)
    blocks = blocks_for(target_device().device_kind, max(q.shape[-1], v.shape[-1]), itemsize)
    seen = visibility(mask, q_slots, k_slots)
    check_walk(q.shape[1], k.shape[1], seen, blocks)
    settings = Settings(scale, softcap, blocks, interpret=target_platform() != "tpu")
    return flash_attention(q, k, v, seen, settings, bias=bias, sinks=sinks)[0]


def check_walk(queries: int, keys: int, seen: Any, blocks: Any) -> None:
    """Raise NotImplementedError where the list of blocks, of each row that has rules of its own, is too long."""
    from jaxformers.kernels.attention.blocks import fit

    rows = max(x.shape[0] for x in (*seen[3:], jnp.zeros(1)) if x is not None)
    for sizes in (blocks.forward, blocks.queries, blocks.keys):
        (block_q, all_q), (block_k, all_k) = fit(queries, sizes[0]), fit(keys, sizes[1])
        if (steps := rows * (all_q // block_q) * (all_k // block_k)) > STEPS:
            raise NotImplementedError(f"{queries} x {keys} tokens in {rows} rows are {steps} blocks; takes {STEPS}")


def visibility(mask: Mask, q_slots: jax.Array, k_slots: jax.Array):
    """The mask as kernels take it."""
    from jaxformers.kernels.attention.visibility import NOBODY, Visibility

    low = None if mask.left is None else q_slots - mask.left
    high = None if mask.right is None else q_slots + mask.right
    if mask.prefix is not None and low is None and high is None:
        high = jnp.full_like(q_slots, NOBODY)  # nothing but the prefix
    keys = None
    if mask.keys is not None:
        keys = jnp.take(mask.keys, jnp.maximum(k_slots, 0), axis=1) & (k_slots >= 0)
    both = mask.q_segments is not None and mask.k_segments is not None
    return Visibility(
        k_slots,
        low,
        high,
        mask.prefix,
        keys,
        mask.q_segments if both else None,
        mask.k_segments if both else None,
    )
