"""Ring attention: queries, keys and values cut along the sequence; keys and values go round a ring of devices.

Each device keeps a running softmax of its own queries, so nothing as long as the sequence is ever in one place: the
backward pass sends keys, values and their gradients round once more. Source: arXiv:2310.01889. Under a causal mask each
device takes a piece from the front and one from the back, so that all have the same to do.

The gradient is written by hand: derived by jax, it would keep all keys that a device saw. It wraps the `shard_map` and
is not inside of one, and what depends on places alone is tied to the queries: a scan over layers would else compute the
masks of all pairs of blocks beforehand, and keep them.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxformers.core.mask import Mask
from jaxformers.core.sharding import AnyMesh, axes_of, mesh_and_rules, over_shards, spec
from jaxformers.ops import ring_blocks, ring_flash
from jaxformers.ops.grouped_heads import repeat_heads
from jaxformers.ops.ring_parts import Engine, Places, Rules, sinks_gradient, with_sinks
from jaxformers.ops.ring_turns import go_round, go_round_back
from jaxformers.ops.zigzag import from_zigzag, to_zigzag

Axes = tuple[str, ...]

BLOCK = 1024  # queries and keys in a product of XLA's: scores take its square in floats for each head


class Layout(NamedTuple):
    """How an attention lies on the mesh: axes of the batch and the heads, and the one axis of the ring."""

    mesh: AnyMesh
    batch: Axes
    heads: Axes
    ring: str

    @property
    def size(self) -> int:
        """Devices in the ring."""
        return self.mesh.shape[self.ring]


class Ring(NamedTuple):
    """What is static."""

    at: Layout
    rules: Rules
    engine: Engine
    balanced: bool


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
    return Layout(mesh, batch, heads, length[0])


def choose_engine(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None) -> Engine:
    """Our kernel where it can do it, else XLA."""
    module = ring_flash if ring_flash.serves(q, k, v, bias) else ring_blocks
    return Engine(module.attend, module.gradients)


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
    if isinstance(scale, jax.Array) or isinstance(softcap, jax.Array):
        raise NotImplementedError("scale and softcap must be numbers, known when the program is traced")
    parts = math.prod(at.mesh.shape[axis] for axis in at.heads)
    k, v = repeat_heads(k, q.shape[2], parts), repeat_heads(v, q.shape[2], parts)
    places = gather_places(q, k, mask, q_slots, k_slots)
    plain = mask.right is not None and mask.left is None and mask.prefix is None and bias is None
    balanced = plain and q.shape[1] == k.shape[1] and q.shape[1] % (2 * at.size) == 0
    rules = Rules(scale, softcap, mask.left, mask.right, 2 if balanced else 1, BLOCK)
    ring = Ring(at, rules, choose_engine(q, k, v, bias), balanced)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    return jnp.swapaxes(attend(ring, q, k, v, bias, sinks, places), 1, 2)


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


class Specs(NamedTuple):
    """How arguments and results lie on the mesh."""

    heads: PartitionSpec  # [B,H,T,D]
    sums: PartitionSpec  # [B,H,T]
    bias: PartitionSpec | None
    sinks: PartitionSpec | None
    places: Places


def specs_of(at: Layout, bias: Any, sinks: Any, places: Places) -> Specs:
    """Specs of everything that is not None; an axis of size 1 of a bias is on every device."""
    row, line = PartitionSpec(at.batch, at.ring), PartitionSpec(at.ring)
    whole = None
    if bias is not None:
        axes = (at.batch, at.heads, at.ring)
        whole = PartitionSpec(*(None if size == 1 else a for a, size in zip(axes, bias.shape, strict=False)), None)
    rows = (None if x is None else row for x in (places.real, places.q_segments, places.k_segments))
    own = Places(line, line, *rows, None if places.prefix is None else PartitionSpec(at.batch))
    heads = PartitionSpec(at.batch, at.heads, at.ring, None)
    return Specs(heads, PartitionSpec(*heads[:3]), whole, None if sinks is None else PartitionSpec(at.heads), own)


def missing(at: Layout, placed: PartitionSpec) -> Axes:
    """Axes that cut the queries and not an argument: its gradient is a sum over them."""
    there = {axis for entry in placed for axis in axes_of(entry)}
    return tuple(axis for axis in (*at.batch, *at.heads, at.ring) if axis not in there)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(ring: Ring, q, k, v, bias, sinks, places: Places) -> jax.Array:
    """The result [B,H,T,Dv] of q [B,H,T,D], k and v [B,K,S,D|Dv]."""
    return attend_and_save(ring, q, k, v, bias, sinks, places)[0]


def attend_and_save(ring: Ring, q, k, v, bias, sinks, places: Places) -> tuple[jax.Array, tuple]:
    """The result, and what its gradient needs, where and in the order in which it was used."""
    at = ring.at
    specs = specs_of(at, bias, sinks, places)

    def local(q, k, v, bias, sinks, places):
        q, places = jax.lax.optimization_barrier((q, places))
        if ring.balanced:
            q, k, v, places = to_zigzag((q, k, v, places), at.ring, at.size)
        out, lse = go_round(ring.engine, ring.rules, (at.ring, at.size), q, k, v, bias, places)
        out, lse = with_sinks(out, lse, sinks)
        out = out.astype(q.dtype)
        home = from_zigzag(out, at.ring, at.size) if ring.balanced else out
        return home, (q, k, v, out, lse)

    heads = specs.heads
    results = (heads, (heads, heads, heads, heads, specs.sums))
    arguments = (heads, heads, heads, specs.bias, specs.sinks, specs.places)
    out, kept = over_shards(local, arguments, results, at.mesh)(q, k, v, bias, sinks, places)
    return out, (kept, bias, sinks, places)


def attend_backward(ring: Ring, saved: tuple, grad: jax.Array) -> tuple:
    """Gradients of q, k, v, bias and sinks."""
    kept, bias, sinks, places = saved
    at = ring.at
    specs = specs_of(at, bias, sinks, places)

    def local(grad, kept, bias, sinks, places):
        grad, places = jax.lax.optimization_barrier((grad, places))
        if ring.balanced:
            grad, places = to_zigzag((grad, places), at.ring, at.size)
        out, lse = kept[3:]
        own = jnp.sum(grad.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
        given = (*kept[:3], bias, places, grad, lse, own)
        *grads, g_bias = go_round_back(ring.engine, ring.rules, (at.ring, at.size), *given)
        if ring.balanced:
            grads = [from_zigzag(g, at.ring, at.size) for g in grads]
        if bias is not None:
            g_bias = jax.lax.psum(g_bias, missing(at, specs.bias)).astype(bias.dtype)
        g_sinks = None
        if sinks is not None:
            g_sinks = jax.lax.psum(sinks_gradient(sinks, lse, own), missing(at, specs.sinks)).astype(sinks.dtype)
        return (*(g.astype(x.dtype) for g, x in zip(grads, kept[:3], strict=True)), g_bias, g_sinks)

    heads = specs.heads
    arguments = (heads, (heads, heads, heads, heads, specs.sums), specs.bias, specs.sinks, specs.places)
    results = (heads, heads, heads, specs.bias, specs.sinks)
    return (*over_shards(local, arguments, results, at.mesh)(grad, kept, bias, sinks, places), None)


attend.defvjp(attend_and_save, attend_backward)
