"""Turns of the ring: one device's queries meet the keys of every device; runs inside a `shard_map`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.ops.ring_parts import EMPTY, HIDDEN, Engine, Places, Rules

Axis = tuple[str, int]  # the ring's name and size


def around(axis: Axis, travelling: Any, visit: Callable, carry: Any) -> tuple[Any, Any]:
    """(travelling, carry) after `visit(travelling, carry, source)` for what every device holds, which then is home."""
    name, size = axis
    here = jax.lax.axis_index(name)
    steps = [(n, (n + 1) % size) for n in range(size)]

    def turn(state: tuple, step: jax.Array) -> tuple[tuple, None]:
        travelling, carry = visit(*state, (here - step) % size)
        return (jax.tree.map(lambda x: jax.lax.ppermute(x, name, steps), travelling), carry), None

    return jax.lax.scan(turn, (travelling, carry), jnp.arange(size))[0]


def keys_of(places: Places) -> tuple:
    """What is known of keys, and travels with them."""
    return places.k_slots, places.real, places.k_segments


def meeting(places: Places, keys: tuple) -> Places:
    """A device's own queries with the keys of another."""
    slots, real, segments = keys
    return places._replace(k_slots=slots, real=real, k_segments=segments)


def columns(bias: jax.Array | None, source: jax.Array, count: int) -> jax.Array | None:
    """The part of a bias [..,S of all devices] that the keys of one device meet."""
    return None if bias is None else jax.lax.dynamic_slice_in_dim(bias, source * count, count, 3)


def go_round(engine: Engine, rules: Rules, axis: Axis, q, k, v, bias, places: Places) -> tuple[jax.Array, jax.Array]:
    """Outputs [B,H,T,Dv] and the log of each sum of exponentials [B,H,T], float32; zeros where nothing was seen."""

    def visit(travelling: tuple, carry: tuple, source: jax.Array) -> tuple:
        k, v, keys = travelling
        part, part_lse = engine.attend(rules, q, k, v, columns(bias, source, k.shape[2]), meeting(places, keys))
        out, lse = carry
        total = jnp.logaddexp(lse, part_lse)
        out = out * jnp.exp(lse - total)[..., None] + part * jnp.exp(part_lse - total)[..., None]
        return travelling, (out, total)

    start = (jnp.zeros((*q.shape[:3], v.shape[3]), jnp.float32), jnp.full(q.shape[:3], HIDDEN, jnp.float32))
    _, (out, lse) = around(axis, (k, v, keys_of(places)), visit, start)
    return jnp.where((lse > EMPTY)[..., None], out, 0.0), lse


def go_round_back(
    engine: Engine, rules: Rules, axis: Axis, q, k, v, bias, places: Places, grad, lse, own
) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
    """Gradients of q, k, v and bias, float32. own [B,H,T]: sum of each output times its gradient."""
    # For a query that saw nothing, a large divisor: its probabilities are zeros here as they were there.
    lse = jnp.where(lse > EMPTY, lse, -HIDDEN)

    def visit(state: tuple, carry: tuple, source: jax.Array) -> tuple:
        (k, v, keys), (g_k, g_v) = state
        g_q, g_bias = carry
        near = columns(bias, source, k.shape[2])
        part = engine.gradients(rules, q, k, v, near, meeting(places, keys), grad, lse, own)
        if bias is not None:
            g_bias = jax.lax.dynamic_update_slice_in_dim(g_bias, part[3], source * k.shape[2], 3)
        return ((k, v, keys), (g_k + part[1], g_v + part[2])), (g_q + part[0], g_bias)

    def zeros(x: jax.Array) -> jax.Array:
        return jnp.zeros(x.shape, jnp.float32)

    travelling = ((k, v, keys_of(places)), (zeros(k), zeros(v)))
    (_, (g_k, g_v)), (g_q, g_bias) = around(axis, travelling, visit, (zeros(q), None if bias is None else zeros(bias)))
    return g_q, g_k, g_v, g_bias
