"""Attention of a few queries to a cache by this library's own kernels, which read it as it is stored.

What they cannot do is refused; on a mesh each device has its rows and heads.
"""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxformers.core.mask import Mask
from jaxformers.core.sharding import axes_of, mesh_and_rules, over_shards, spec
from jaxformers.core.stored import Paged, Ragged, Scaled
from jaxformers.ops.dispatch import target_device, target_platform
from jaxformers.ops.flash_attention import FEW, STEPS, check_unsharded, extra_specs, visibility
from jaxformers.ops.grouped_heads import repeat_heads

WIDEST = 640  # head dimension: that of DeepSeek's latents with their rotated part is 576
BIASED = 16  # queries that may have a bias of their own for each key
PRODUCTS = 4096  # queries times heads times kv heads; with more, scores of other kv heads cost more than reading does
CORES = {"TPU v4": 2, "TPU v5p": 2, "TPU v5": 2}  # that share a chip's memory and run one program


def decode_tpu(q: jax.Array, k: Any, v: Any, mask: Mask, **given: Any) -> jax.Array:
    """As the attention op, for up to 127 queries on more keys, dense or in int8, by the Pallas kernel for TPUs."""
    if isinstance(k, Paged | Ragged):
        raise NotImplementedError("keys lie in pages, which paged_tpu reads")
    length = (k.values if isinstance(k, Scaled) else k).shape[1]
    if length <= q.shape[1]:
        raise NotImplementedError(f"{q.shape[1]} queries on {length} keys: there is no cache to read")
    return attend(q, k, v, mask, **given)


def paged_tpu(q: jax.Array, k: Any, v: Any, mask: Mask, **given: Any) -> jax.Array:
    """As the attention op, for keys in pages, of rows side by side or laid end to end."""
    if not isinstance(k, Paged | Ragged):
        raise NotImplementedError("keys do not lie in pages")
    return attend(q, k, v, mask, **given)


def attend(
    q: jax.Array, k: Any, v: Any, mask: Mask, *, scale: float, softcap=None, bias=None, sinks=None, q_slots, k_slots
) -> jax.Array:
    """Attention to keys in any stored form, on the mesh in use."""
    check_supported(q, k, v, mask, bias)
    if isinstance(scale, jax.Array) or isinstance(softcap, jax.Array):
        raise NotImplementedError("scale and softcap must be numbers, known when the program is traced")
    arrays = (bias, sinks, mask, q_slots, k_slots)
    active = mesh_and_rules()
    if active is None:
        check_unsharded(q, *jax.tree.leaves((k, v)))
        return local_attention(scale, softcap, q, k, v, *arrays)
    mesh, rules = active
    if axes_of(spec(("batch", "keys"), (q.shape[0], k_slots.shape[0]), mesh, rules)[1]):
        raise NotImplementedError("the rules cut the keys along the sequence")
    names = (None, None, "heads", None) if isinstance(k, Ragged) else ("batch", "length", "heads", None)
    b, t, h, _ = spec(names, q.shape, mesh, rules)
    parts = math.prod(mesh.shape[axis] for axis in axes_of(h))
    k, v = (spread_heads(x, q.shape[2], parts) for x in (k, v))
    queries = PartitionSpec(b, t, h, None)
    specs = (queries, parts_of(k, b, h), parts_of(v, b, h), *extra_specs((b, t, h), *arrays))
    run = over_shards(lambda *parts: local_attention(scale, softcap, *parts), specs, queries)
    return run(q, k, v, *arrays)


def check_supported(q: jax.Array, k: Any, v: Any, mask: Mask, bias: jax.Array | None) -> None:
    """Raise NotImplementedError, with the reason, for what the kernels do not compute."""
    if mask.dense is not None:
        raise NotImplementedError("a dense mask says nothing of which keys need not be read")
    count = q.shape[1]
    if count >= FEW and not isinstance(k, Ragged):
        raise NotImplementedError(f"{count} queries are many; meant for fewer than {FEW}")
    if isinstance(k, Ragged) and (bias is not None or mask.right != 0 or mask.prefix is not None or segments(mask)):
        raise NotImplementedError("rows laid end to end take causal masks and windows only")
    if bias is not None and bias.shape[2] > BIASED:
        raise NotImplementedError(f"a bias for each of {count} queries and each key; takes up to {BIASED} queries")
    found = [str(stored_array(x).dtype) for x in (q, k, v)]
    if found[0] not in ("float32", "bfloat16") or not (isinstance(k, Scaled) or len(set(found)) == 1):
        raise NotImplementedError(
            f"q, k and v are {', '.join(found)}; takes bfloat16 or float32, the same for all, or int8 keys"
        )
    sizes = q.shape[-1], stored_array(v).shape[-1]
    if max(sizes) > WIDEST or any(size % 8 for size in sizes):
        raise NotImplementedError(f"head dimensions {sizes[0]} and {sizes[1]}; takes multiples of 8 up to {WIDEST}")


def segments(mask: Mask) -> bool:
    """Whether documents are kept apart."""
    return mask.q_segments is not None and mask.k_segments is not None


def stored_array(x: Any) -> jax.Array:
    """The array with the numbers themselves."""
    return x.values if isinstance(x, Scaled) else x.pages if isinstance(x, Paged | Ragged) else x


def spread_heads(x: Any, heads: int, parts: int) -> Any:
    """Keys or values repeated for each device to hold those its queries read; one head is on every device as it is."""
    if stored_array(x).shape[2] == 1:
        return x
    if isinstance(x, Scaled):
        scale = repeat_heads(x.scale[..., None], heads, parts)[..., 0]
        return x.replace(values=repeat_heads(x.values, heads, parts), scale=scale)
    if isinstance(x, Paged | Ragged):
        return x.replace(pages=repeat_heads(x.pages, heads, parts))
    return repeat_heads(x, heads, parts)


def parts_of(x: Any, batch: Any, heads: Any) -> Any:
    """How keys or values lie on the mesh; pages are whole on every device along the batch."""
    h = None if stored_array(x).shape[2] == 1 else heads
    if isinstance(x, Scaled):
        return x.replace(values=PartitionSpec(batch, None, h, None), scale=PartitionSpec(batch, None, h))
    if isinstance(x, Ragged):
        return jax.tree.map(lambda _: PartitionSpec(), x).replace(pages=PartitionSpec(None, None, h, None))
    if isinstance(x, Paged):
        pages = PartitionSpec(None, None, h, None)
        return x.replace(pages=pages, table=PartitionSpec(batch, None), slots=PartitionSpec())
    return PartitionSpec(batch, None, h, None)


def local_attention(scale: float, softcap: float | None, q, k, v, bias, sinks, mask, q_slots, k_slots) -> jax.Array:
    """Attention on one device; elsewhere than on a TPU, when forced, the kernel is interpreted."""
    from jaxformers.kernels.attention.decode_blocks import Settings, columns_fit
    from jaxformers.kernels.attention.decode_tpu import decode_attention

    check_packed(stored_array(k), stored_array(v))
    settings = Settings(scale, softcap, interpret=target_platform() != "tpu")
    if isinstance(k, Ragged):
        return ragged(settings, q, k, v, mask, sinks)
    stored = in_kernel_form(k, v)
    b, t, h, _ = q.shape
    check_walk(b, k_slots.shape[0], stored)
    if t * h * (kv := stored.k.shape[2]) > PRODUCTS and kv > 1:
        raise NotImplementedError(f"{t} queries of {h} heads on {kv} of keys; takes products up to {PRODUCTS}")
    size, count = columns_fit(t * h)
    if b * count == size:  # one program, for as many cores as there are
        settings = replace(settings, splits=CORES.get(target_device().device_kind, 1))
    seen = visibility(mask, q_slots, k_slots)
    return decode_attention(q, stored, seen, settings, bias=bias, sinks=sinks)


def check_packed(*arrays: jax.Array) -> None:
    """Raise NotImplementedError where a TPU leaves gaps between tokens, whose heads could not be read as they lie."""
    for x in arrays:
        kv, few = x.shape[2], (1, 4) if x.dtype == jnp.int8 else (1, 2, 4)
        if kv % 8 and kv not in few:
            raise NotImplementedError(f"{kv} kv heads in {x.dtype} would be moved at each step; takes {few} and eights")


def check_walk(rows: int, length: int, stored: Any) -> None:
    """Raise NotImplementedError where the list of blocks is longer than scalar memory holds."""
    tokens = 128 if stored.table is None else stored.k.shape[1]
    if (steps := rows * -(-length // tokens)) > STEPS:
        raise NotImplementedError(f"{length} keys in {rows} rows are {steps} blocks; takes {STEPS}")


def in_kernel_form(k: Any, v: Any) -> Any:
    """Keys and values of rows as the kernel takes them."""
    from jaxformers.kernels.attention.decode_blocks import Stored

    if isinstance(k, Scaled):
        return Stored(k.values, v.values, k.scale, v.scale)
    return Stored(k.pages, v.pages, table=k.table) if isinstance(k, Paged) else Stored(k, v)


def ragged(settings: Any, q: jax.Array, k: Ragged, v: Ragged, mask: Mask, sinks: jax.Array | None) -> jax.Array:
    """Attention of q [1,T,H,D] to the pages of each token's row."""
    from jaxformers.kernels.attention import ragged_tpu

    (_, t, h, _), (rows, most) = q.shape, k.table.shape
    steps = (-(-t // ragged_tpu.block_of_tokens(t, h, rows)) + rows) * most
    if steps > STEPS:
        raise NotImplementedError(f"{t} tokens of {rows} rows of {most} pages are {steps} blocks; takes {STEPS}")
    pages = ragged_tpu.Ragged(k.pages, v.pages, k.table, k.starts, k.lengths, mask.left)
    return ragged_tpu.ragged_attention(q[0], pages, settings, sinks=sinks)[None]
