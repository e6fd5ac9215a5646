"""A 64-bit hash of tokens in pairs of 32-bit numbers: neither accelerators nor jax's defaults have 64-bit integers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MULTIPLIER = 6364136223846793005  # Knuth's linear congruential generator, as SynthID Text uses it
WORD = 0xFFFFFFFF


class Pair(NamedTuple):
    """A 64-bit number."""

    high: jax.Array  # UInt32 [...]
    low: jax.Array  # UInt32 [...]


def pair(values: int | list[int] | np.ndarray) -> np.ndarray:
    """Integers of 64 bits as UInt32 [..., 2], high half first."""
    wide = np.asarray(values, np.int64).view(np.uint64)
    return np.stack([wide >> 32, wide & WORD], axis=-1).astype(np.uint32)


def of_tokens(tokens: jax.Array) -> Pair:
    """Tokens, which are not negative, as 64-bit numbers."""
    return Pair(jnp.zeros(tokens.shape, jnp.uint32), tokens.astype(jnp.uint32))


def add(a: Pair, b: Pair) -> Pair:
    """The sum, modulo 2 ** 64."""
    low = a.low + b.low
    return Pair(a.high + b.high + (low < a.low), low)


def wide_product(a: jax.Array, b: int) -> Pair:
    """All 64 bits of a product of two 32-bit numbers."""
    a_high, a_low, b_high, b_low = a >> 16, a & 0xFFFF, jnp.uint32(b >> 16), jnp.uint32(b & 0xFFFF)
    middle = (a_low * b_low >> 16) + (a_low * b_high & 0xFFFF) + (a_high * b_low & 0xFFFF)
    high = a_high * b_high + (a_low * b_high >> 16) + (a_high * b_low >> 16) + (middle >> 16)
    return Pair(high, a * jnp.uint32(b))


def accumulate(state: Pair, data: Pair) -> Pair:
    """The hash with one more number in it: (state + data) * MULTIPLIER + 1."""
    summed = add(state, data)
    high, low = MULTIPLIER >> 32, MULTIPLIER & WORD
    product = wide_product(summed.low, low)
    crossed = summed.low * jnp.uint32(high) + summed.high * jnp.uint32(low)
    one = Pair(jnp.uint32(0), jnp.uint32(1))
    return add(Pair(product.high + crossed, product.low), one)


def start(shape: tuple[int, ...]) -> Pair:
    """The hash of nothing: 1."""
    return Pair(jnp.zeros(shape, jnp.uint32), jnp.ones(shape, jnp.uint32))


def equal(a: Pair, b: Pair) -> jax.Array:
    """Whether two numbers are the same."""
    return (a.high == b.high) & (a.low == b.low)


def modulo(a: Pair, size: int) -> jax.Array:
    """The remainder, from 0 to size - 1, of a signed number by a `size` of at most 2 ** 24; Int32."""
    if size & (size - 1) == 0:
        return (a.low & jnp.uint32(size - 1)).astype(jnp.int32)
    rest = jnp.zeros_like(a.low)
    for word in a:
        for shift in (24, 16, 8, 0):  # a byte at a time, so that nothing exceeds 32 bits
            rest = ((rest << 8) | ((word >> shift) & 0xFF)) % jnp.uint32(size)
    negative = jnp.where(a.high >> 31, jnp.uint32(2**64 % size), jnp.uint32(0))
    return ((rest + jnp.uint32(size) - negative) % jnp.uint32(size)).astype(jnp.int32)
