"""Recurrences of state-space models, in float32: h[t] = decay[t] * h[t-1] + input[t], y[t] = h[t] c[t].

Each takes the state before the first token and returns the one after the last, so that decoding may stop and go on.
"""

import jax
import jax.numpy as jnp

from jaxformers.ops.dispatch import Op
from jaxformers.ops.dot import einsum
from jaxformers.ops.recurrence_tpu import check_long, dual_tpu, selective_tpu

CHUNK = 64  # tokens of a selective scan that are computed side by side

Pair = tuple[jax.Array, jax.Array]


def floats(*arrays: jax.Array) -> list[jax.Array]:
    """The same arrays in float32."""
    return [jnp.asarray(a).astype(jnp.float32) for a in arrays]


def in_chunks(x: jax.Array, size: int) -> jax.Array:
    """[B,T,...] -> [chunks,B,size,...], zeros after the end: a step of no time changes no state."""
    count = -(-x.shape[1] // size)
    x = jnp.pad(x, [(0, 0), (0, count * size - x.shape[1])] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)


def joined(chunks: jax.Array, length: int) -> jax.Array:
    """[chunks,B,size,...] -> [B,length,...]."""
    x = jnp.moveaxis(chunks, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


def selective_steps(
    x: jax.Array, dt: jax.Array, a: jax.Array, b: jax.Array, c: jax.Array, state: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mamba's scan, one token after another. Source: arXiv:2312.00752.

    x, dt [B,T,C], a [C,N], b, c [B,T,N], state [B,C,N] -> y [B,T,C] and the last state. decay = exp(dt a).
    """
    x, dt, a, b, c, state = floats(x, dt, a, b, c, state)

    def step(h: jax.Array, now: tuple[jax.Array, ...]) -> Pair:
        x, dt, b, c = now
        h = jnp.exp(dt[..., None] * a) * h + (dt * x)[..., None] * b[:, None]
        return h, einsum("bcn,bn->bc", h, c)

    state, y = jax.lax.scan(step, state, tuple(jnp.moveaxis(z, 1, 0) for z in (x, dt, b, c)))
    return jnp.moveaxis(y, 0, 1), state


selective_scan = Op("selective_scan", selective_steps)
selective_scan.register("selective_tpu", platforms=("tpu",), priority=10)(selective_tpu)


def compose(first: Pair, second: Pair) -> Pair:
    """Two steps (decay, input) as one."""
    return first[0] * second[0], second[0] * first[1] + second[1]


def selective_chunks(
    x: jax.Array, dt: jax.Array, a: jax.Array, b: jax.Array, c: jax.Array, state: jax.Array, size: int = CHUNK
) -> tuple[jax.Array, jax.Array]:
    """`selective_steps` by chunks of `size` tokens, each in a logarithmic number of parallel steps."""
    x, dt, a, b, c, state = floats(x, dt, a, b, c, state)
    length = x.shape[1]

    def chunk(h: jax.Array, now: tuple[jax.Array, ...]) -> Pair:
        x, dt, b, c = now
        steps = jnp.exp(dt[..., None] * a), (dt * x)[..., None] * b[:, :, None]
        decay, added = jax.lax.associative_scan(compose, steps, axis=1)
        h = decay * h[:, None] + added
        return h[:, -1], einsum("btcn,btn->btc", h, c)

    state, y = jax.lax.scan(chunk, state, tuple(in_chunks(z, min(size, length)) for z in (x, dt, b, c)))
    return joined(y, length), state


@selective_scan.register("chunked")
def selective_chunks_checked(
    x: jax.Array, dt: jax.Array, a: jax.Array, b: jax.Array, c: jax.Array, state: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`selective_chunks` for sequences that are worth it."""
    check_long(x)
    return selective_chunks(x, dt, a, b, c, state)


def spread(x: jax.Array, heads: int) -> jax.Array:
    """[B,T,G,N] -> [B,T,H,N]: neighbouring heads share a group."""
    return jnp.repeat(x, heads // x.shape[2], axis=2)


def dual_steps(
    x: jax.Array, dt: jax.Array, a: jax.Array, b: jax.Array, c: jax.Array, state: jax.Array, *, size: int
) -> tuple[jax.Array, jax.Array]:
    """Mamba-2's recurrence, one token after another; `size` is the chunked form's. Source: arXiv:2405.21060.

    x [B,T,H,P], dt [B,T,H], a [H], b, c [B,T,G,N], state [B,H,P,N] -> y [B,T,H,P] and the last state.
    """
    x, dt, a, b, c, state = floats(x, dt, a, b, c, state)
    b, c = spread(b, x.shape[2]), spread(c, x.shape[2])

    def step(h: jax.Array, now: tuple[jax.Array, ...]) -> Pair:
        x, dt, b, c = now
        h = jnp.exp(dt * a)[..., None, None] * h + (dt[..., None] * x)[..., None] * b[:, :, None]
        return h, einsum("bhpn,bhn->bhp", h, c)

    state, y = jax.lax.scan(step, state, tuple(jnp.moveaxis(z, 1, 0) for z in (x, dt, b, c)))
    return jnp.moveaxis(y, 0, 1), state


state_space_dual = Op("state_space_dual", dual_steps)
state_space_dual.register("dual_tpu", platforms=("tpu",), priority=10)(dual_tpu)


def dual_chunks(
    x: jax.Array, dt: jax.Array, a: jax.Array, b: jax.Array, c: jax.Array, state: jax.Array, *, size: int
) -> tuple[jax.Array, jax.Array]:
    """`dual_steps` by chunks of `size` tokens: attention inside a chunk, the recurrence between chunks."""
    x, dt, a, b, c, state = floats(x, dt, a, b, c, state)
    length, heads = x.shape[1:3]
    size = min(size, length)
    earlier = jnp.tril(jnp.ones((size, size), bool))[None, :, :, None]

    def chunk(h: jax.Array, now: tuple[jax.Array, ...]) -> Pair:
        x, dt, b, c = now
        b, c = spread(b, heads), spread(c, heads)
        x = x * dt[..., None]
        passed = jnp.cumsum(dt * a, axis=1)  # log of the decay since the chunk began, [B,L,H]
        between = jnp.exp(jnp.where(earlier, passed[:, :, None] - passed[:, None], -jnp.inf))
        y = einsum("blsh,bshp->blhp", einsum("blhn,bshn->blsh", c, b) * between, x)
        y = y + einsum("blhn,bhpn->blhp", c * jnp.exp(passed)[..., None], h)
        left = jnp.exp(passed[:, -1:] - passed)
        h = jnp.exp(passed[:, -1])[..., None, None] * h + einsum("blhp,blhn->bhpn", x, b * left[..., None])
        return h, y

    state, y = jax.lax.scan(chunk, state, tuple(in_chunks(z, size) for z in (x, dt, b, c)))
    return joined(y, length), state


@state_space_dual.register("chunked")
def dual_chunks_checked(x: jax.Array, *rest: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """`dual_chunks` for sequences that are worth it."""
    check_long(x)
    return dual_chunks(x, *rest, size=size)
