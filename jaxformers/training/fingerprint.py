"""A number for each array that changes with any bit of it, and not with how the array is laid out over devices."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

GOLDEN = np.uint32(0x9E3779B1)  # 2**32 divided by the golden ratio, as in Knuth's multiplicative hash
MIX = np.uint32(0x85EBCA6B)  # murmur3's
BLOCK = 1 << 14  # elements; 64 KB stay in a core's cache


def fingerprints(leaves: Mapping[str, jax.Array]) -> dict[str, str]:
    """{name: eight hexadecimal digits}; every process must call it, and all get the same."""
    groups: dict[Any, list[str]] = {}
    for name, leaf in leaves.items():
        groups.setdefault(frozenset(leaf.sharding.device_set), []).append(name)
    out: dict[str, str] = {}
    for devices, names in groups.items():  # one program takes arrays of one set of devices
        on_one_cpu = len(devices) == 1 and next(iter(devices)).platform == "cpu"
        sums = weighted_sums([leaves[name] for name in names], by_blocks if on_one_cpu else at_once)
        out |= {name: f"{int(value):08x}" for name, value in zip(names, jax.device_get(sums), strict=True)}
    return out


@partial(jax.jit, static_argnums=1)
def weighted_sums(leaves: list[jax.Array], total: Callable[[jax.Array], jax.Array]) -> list[jax.Array]:
    """For each array the sum of its elements' bits, each times an odd number that belongs to its place, modulo 2**32.

    Integer sums do not depend on their order, so devices may add in any; an odd factor loses no bit of its element.
    """
    return [total(words(leaf)) for leaf in leaves]


def at_once(bits: jax.Array) -> jax.Array:
    """The weighted sum, each device adding up its own part."""
    return jnp.sum(bits * weights(places(bits.shape)), dtype=jnp.uint32)


def by_blocks(bits: jax.Array) -> jax.Array:
    """The same, block after block: a CPU adds integers eight times as fast when no single loop runs over them all."""
    bits = bits.reshape(-1)
    count = bits.size // BLOCK
    body, rest = bits[: count * BLOCK].reshape(count, BLOCK), bits[count * BLOCK :]
    lane = jnp.arange(BLOCK, dtype=jnp.uint32)

    def add(sums: jax.Array, block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        row, start = block
        return sums + row * weights(lane + start), None

    starts = jnp.arange(count, dtype=jnp.uint32) * np.uint32(BLOCK)
    sums, _ = jax.lax.scan(add, jnp.zeros(BLOCK, jnp.uint32), (body, starts))
    after = jnp.arange(rest.size, dtype=jnp.uint32) + np.uint32(count * BLOCK % 2**32)
    return jnp.sum(sums, dtype=jnp.uint32) + jnp.sum(rest * weights(after), dtype=jnp.uint32)


def words(x: jax.Array) -> jax.Array:
    """The bits of an array as uint32, for 64-bit elements two of them."""
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    if x.dtype == bool or jax.dtypes.itemsize_bits(x.dtype) < 8:
        return x.astype(jnp.int8).astype(jnp.uint32)
    size = x.dtype.itemsize
    if size == 8:
        return jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * size}")).astype(jnp.uint32)


def places(shape: tuple[int, ...]) -> jax.Array:
    """The number of each element in the order of a flattened array, modulo 2**32."""
    place = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        place += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride % 2**32)
        stride *= shape[axis]
    return place


def weights(place: jax.Array) -> jax.Array:
    """An odd uint32 for each place, well mixed so that moved or swapped elements show."""
    mixed = place * GOLDEN
    mixed = (mixed ^ (mixed >> 15)) * MIX
    return (mixed ^ (mixed >> 13)) | np.uint32(1)
