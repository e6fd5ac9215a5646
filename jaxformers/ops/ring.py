"""Ring attention: queries, keys and values cut along the sequence; keys and values go round a ring of devices.

Each device keeps a running softmax of its own queries, so nothing as long as the sequence is ever in one place: the
backward pass sends keys, values and their gradients round once more. Source: arXiv:2310.01889. Under a causal mask each
device takes a piece from the front and one from the back, so that all have the same to do.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxformers.core.mask import Mask
from jaxformers.core.sharding import axes_of, mesh_and_rules, over_shards, spec
from jaxformers.ops.ring_blocks import Blocks, Places, blocked_attention

Axes = tuple[str, ...]


class Layout(NamedTuple):
    """How an attention lies on the mesh: axes of the batch and the heads, and the one axis of the ring."""

    batch: Axes
    heads: Axes
    ring: str
    size: int


def plan_layout(q: jax.Array, k: jax.Array) -> Layout:
    """Where the rules put queries and keys. Raises NotImplementedError where there is no ring to go round."""
    active = mesh_and_rules()
    if active is None:
        raise NotImplementedError("no mesh is in use")
    mesh, rules = active
    ours = spec(("batch", "length", "heads", None), q.shape, mesh, rules)
    theirs = spec(("batch", "keys", "kv_heads", None), k.shape, mesh, rules)
    batch, length, heads = (axes_of(entry) for entry in ours[:3])
    if len(length) != 1 or axes_of(theirs[1]) != length:
        raise NotImplementedError("the rules cut queries and keys along no common axis, or along several")
    if mesh.shape[length[0]] == 1:
        raise NotImplementedError("one device is no ring")
    return Layout(batch, heads, length[0], mesh.shape[length[0]])


def heads_to_split(k: jax.Array, heads: int, parts: int) -> jax.Array:
    """Keys or values with heads repeated as often as it takes for each device to hold those its queries read."""
    count = k.shape[2]
    times = parts // math.gcd(count, parts)
    if heads % parts or heads % (count * times):
        raise NotImplementedError(f"{heads} heads on {count} of keys do not divide over {parts} devices")
    return k if times == 1 else jnp.repeat(k, times, axis=2)


def ring_attention(
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
    """As the attention op. Raises NotImplementedError without a sequence axis, and for dense masks."""
    at = plan_layout(q, k)
    if mask.dense is not None:
        raise NotImplementedError("a dense mask is as large as the scores; give it as padding, segments or a window")
    mesh, _ = mesh_and_rules()  # type: ignore[misc]
    parts = math.prod(mesh.shape[axis] for axis in at.heads)
    k, v = heads_to_split(k, q.shape[2], parts), heads_to_split(v, q.shape[2], parts)
    places = gather_places(q, k, mask, q_slots, k_slots)
    plain = mask.left is None and mask.prefix is None and bias is None
    even = q.shape[1] == k.shape[1] and q.shape[1] % (2 * at.size) == 0
    balanced = mask.right is not None and plain and even
    blocks = Blocks(at.ring, at.size, scale, softcap, mask.left, mask.right, 2 if balanced else 1)

    def local(q, k, v, bias, sinks, places: Places) -> jax.Array:
        if balanced:
            q, k, v, places = to_zigzag((q, k, v, places), at)
        out, weight = blocked_attention(blocks, q, k, v, bias, places)
        if sinks is not None:
            # A sink is one more key without a value: it only takes probability away.
            out = out * jax.nn.sigmoid(weight - sinks[None, None].astype(jnp.float32))[..., None].astype(out.dtype)
        return from_zigzag(out, at) if balanced else out

    specs, out_spec = argument_specs(at, bias, sinks, places)
    return over_shards(local, specs, out_spec)(q, k, v, bias, sinks, places)


def gather_places(q: jax.Array, k: jax.Array, mask: Mask, q_slots: jax.Array, k_slots: jax.Array) -> Places:
    """What the mask needs to know of each query and key, as arrays along their sequences."""
    real = None
    if mask.keys is not None:
        real = jnp.take(mask.keys, jnp.maximum(k_slots, 0), axis=1) & (k_slots >= 0)
        real = jnp.broadcast_to(real, (k.shape[0], k.shape[1]))
    q_segments = k_segments = None
    if mask.q_segments is not None and mask.k_segments is not None:
        q_segments = jnp.broadcast_to(mask.q_segments, q.shape[:2])
        k_segments = jnp.broadcast_to(mask.k_segments, k.shape[:2])
    return Places(q_slots, k_slots, real, q_segments, k_segments, mask.prefix)


def argument_specs(at: Layout, bias: Any, sinks: Any, places: Places) -> tuple[tuple, PartitionSpec]:
    """How each argument of a device's own part lies on the mesh, and how its result does."""
    four, row = PartitionSpec(at.batch, at.ring, at.heads, None), PartitionSpec(at.batch, at.ring)
    line, whole = PartitionSpec(at.ring), None
    if bias is not None:
        axes = (at.batch, at.heads, at.ring)
        whole = PartitionSpec(*(None if size == 1 else a for a, size in zip(axes, bias.shape, strict=False)), None)
    own = Places(
        line,
        line,
        *(None if x is None else row for x in (places.real, places.q_segments, places.k_segments)),
        None if places.prefix is None else PartitionSpec(at.batch),
    )
    return (four, four, four, whole, None if sinks is None else PartitionSpec(at.heads), own), four


def zigzag_steps(size: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Where the first and the second half of each device's sequence go: device i gets pieces i and 2 size - 1 - i."""

    def to(piece: int) -> int:
        return min(piece, 2 * size - 1 - piece)

    return [(i, to(2 * i)) for i in range(size)], [(i, to(2 * i + 1)) for i in range(size)]


def to_zigzag(given: tuple, at: Layout) -> tuple:
    """Exchange halves of queries, keys and what is known of their places; slots tell each where it was."""
    first, second = zigzag_steps(at.size)

    def move(x: jax.Array, axis: int) -> jax.Array:
        a, b = jnp.split(x, 2, axis)
        parts = (jax.lax.ppermute(a, at.ring, first), jax.lax.ppermute(b, at.ring, second))
        return jnp.concatenate(parts, axis)

    q, k, v, places = given
    rows = {n: move(x, x.ndim - 1) for n, x in places._asdict().items() if x is not None}
    return move(q, 1), move(k, 1), move(v, 1), places._replace(**rows)


def from_zigzag(x: jax.Array, at: Layout) -> jax.Array:
    """Undo `to_zigzag` on the result [B,T,H,D]."""
    a, b = jnp.split(x, 2, axis=1)
    first, second = ([(there, here) for here, there in steps] for steps in zigzag_steps(at.size))
    return jnp.concatenate((jax.lax.ppermute(a, at.ring, first), jax.lax.ppermute(b, at.ring, second)), axis=1)
