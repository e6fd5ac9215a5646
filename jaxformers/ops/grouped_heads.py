"""Grouped heads over devices: keys and values whose heads are fewer than the devices that share the queries'."""

import math

import jax
import jax.numpy as jnp


def repeat_heads(k: jax.Array, heads: int, parts: int) -> jax.Array:
    """Keys or values [B,S,K,D] with heads repeated as often as it takes for each device to hold those its queries read.

    heads: the queries'. parts: devices they divide over. Raises NotImplementedError where they do not.
    """
    count = k.shape[2]
    times = parts // math.gcd(count, parts)
    if heads % parts or heads % (count * times):
        raise NotImplementedError(f"{heads} heads on {count} of keys do not divide over {parts} devices")
    return k if times == 1 else jnp.repeat(k, times, axis=2)
