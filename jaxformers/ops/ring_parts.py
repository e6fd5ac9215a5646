"""What a turn of the ring computes: a device's queries against one part of the keys, by XLA or by our own kernel."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

HIDDEN = -1e30  # far below any score, yet a fully hidden row stays finite
EMPTY = HIDDEN / 2  # a sum of exponentials whose log is below it is of a query that saw nothing


class Places(NamedTuple):
    """What a mask must know of queries and keys."""

    q_slots: jax.Array  # Int [T]
    k_slots: jax.Array  # Int [S]
    real: jax.Array | None = None  # Bool [B,S]: keys that are not padding
    q_segments: jax.Array | None = None  # Int [B,T]
    k_segments: jax.Array | None = None  # Int [B,S]
    prefix: jax.Array | None = None  # Int [B]


class Rules(NamedTuple):
    """What is static about scores and masks."""

    scale: float
    softcap: float | None = None
    left: int | None = None
    right: int | None = None
    pieces: int = 1  # that do not follow each other in a device's part of the sequence
    block: int | None = None  # queries and keys in a product at most; None: all


class Engine(NamedTuple):
    """Two functions; all arrays are heads first, q [B,H,T,D], k and v [B,K,S,D|Dv], sums are float32 [B,H,T].

    attend(rules, q, k, v, bias, places) -> (output [B,H,T,Dv], log of the sum of exponentials)
    gradients(rules, q, k, v, bias, places, grad, lse, own) -> gradients of (q, k, v, bias)
    """

    attend: Callable
    gradients: Callable


def with_sinks(out: jax.Array, lse: jax.Array, sinks: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Outputs [B,H,T,Dv] and logs of sums [B,H,T] with one more key without a value: it only takes probability away."""
    if sinks is None:
        return out, lse
    total = jnp.logaddexp(lse, sinks[None, :, None].astype(jnp.float32))
    return out * jnp.exp(lse - total)[..., None], total


def sinks_gradient(sinks: jax.Array, lse: jax.Array, own: jax.Array) -> jax.Array:
    """The gradient [H], float32, from logs of sums that contain the sinks; own [B,H,T]: output times its gradient."""
    share = jnp.exp(sinks[None, :, None].astype(jnp.float32) - lse)
    return -jnp.sum(share * own, axis=(0, 2))
