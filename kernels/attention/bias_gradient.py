"""The gradient of an additive bias, in plain JAX: one row of the batch and one block of queries at a time.

A learned bias is as large as the scores of a row of the batch, so this needs no more memory than the bias itself.
"""

import jax
import jax.numpy as jnp

from jaxformers.kernels.attention.tpu_blocks import HIDDEN, Inputs, Settings, grown, product
from jaxformers.kernels.attention.visibility import Visibility, visible_array

QUERIES = 128  # computed at a time


def bias_gradient(x: Inputs, settings: Settings, visibility: Visibility) -> jax.Array:
    """Sum of the scores' gradients over the axes along which the bias [1|B,1|H,1|T,1|S] is spread."""
    batch, heads, length, _ = x.q.shape
    grad = x.grad if x.grad.ndim == 4 else x.grad.reshape(batch, length, heads, -1).swapaxes(1, 2)
    rows = (x.q, x.k, x.v, grad, x.lse[:, :, 0], x.delta[:, :, 0])
    shape = x.bias.shape[1:]

    def row(b: jax.Array) -> jax.Array:
        own = jax.tree.map(lambda a: a[jnp.minimum(b, a.shape[0] - 1)], (rows, x.bias))
        return row_gradient(*own, settings, one_row(visibility, b))

    if x.bias.shape[0] > 1:
        found = jax.lax.map(row, jnp.arange(batch))
    else:
        zeros = jnp.zeros(shape, jnp.float32)
        found = jax.lax.scan(lambda sum, b: (sum + row(b), None), zeros, jnp.arange(batch))[0][None]
    return found.astype(x.bias.dtype)


def one_row(v: Visibility, b: jax.Array) -> Visibility:
    """The rules of one row of the batch, with a batch axis of 1."""

    def own(a: jax.Array | None) -> jax.Array | None:
        return None if a is None else jax.lax.dynamic_slice_in_dim(a, jnp.minimum(b, a.shape[0] - 1), 1)

    return v._replace(
        prefix=own(v.prefix), keys=own(v.keys), q_segments=own(v.q_segments), k_segments=own(v.k_segments)
    )


def row_gradient(arrays: tuple, bias: jax.Array, settings: Settings, visibility: Visibility) -> jax.Array:
    """One row, float32 [1|H,1|T,1|S]. q [H,T,D], k [K,S,D], v [K,S,Dv], grad [H,T,Dv], lse and delta [H,T]."""
    q, k, v, grad, lse, delta = arrays
    length = q.shape[1]
    count = -(-length // QUERIES)
    more = count * QUERIES - length
    k, v = (jnp.repeat(a, q.shape[0] // k.shape[0], axis=0) for a in (k, v))
    along = bias.shape[1] > 1

    def cut(a: jax.Array | None, axis: int, value: float = 0) -> jax.Array | None:
        if a is None:
            return None
        a = grown(a, axis, more, value)
        a = a.reshape(*a.shape[:axis], count, QUERIES, *a.shape[axis + 1 :])
        return jnp.moveaxis(a, axis, 0)

    parts = (cut(q, 1), cut(grad, 1), cut(lse, 1, -HIDDEN), cut(delta, 1), cut(bias, 1) if along else None)
    rules = (cut(visibility.low, 0), cut(visibility.high, 0), cut(visibility.q_segments, 1))

    def block(given: tuple) -> jax.Array:
        (q, grad, lse, delta, own), (low, high, segments) = given
        own = own if along else bias
        seen = visible_array(visibility._replace(low=low, high=high, q_segments=segments))
        powers = probabilities(q, k, own, lse, settings, seen)
        wanted = powers * (jax.vmap(lambda g, v: product(g, v, (1, 1)))(grad, v) - delta[..., None])
        spread = [axis for axis, size in enumerate((own.shape[0], own.shape[1], own.shape[2])) if size == 1]
        return jnp.sum(wanted, axis=tuple(spread), keepdims=True)

    found = jax.lax.map(block, (parts, rules))  # [count,1|H,QUERIES|1,1|S]
    if not along:
        return found.sum(0)
    return jnp.moveaxis(found, 0, 1).reshape(found.shape[1], count * QUERIES, -1)[:, :length]


def probabilities(q, k, bias, lse, settings: Settings, seen: jax.Array | None) -> jax.Array:
    """Of a block of queries [H,queries,S], from the saved logarithm."""
    s = jax.vmap(lambda q, k: product(q, k, (1, 1)))(q, k) * settings.scale
    if settings.softcap is not None:
        s = jnp.tanh(s / settings.softcap) * settings.softcap
    s = s + bias
    s = s if seen is None else jnp.where(seen, s, HIDDEN)
    return jnp.exp(s - lse[..., None])
