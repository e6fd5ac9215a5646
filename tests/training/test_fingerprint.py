"""Fingerprints change with any bit, and with nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxformers.core.mesh import make_mesh
from jaxformers.training.fingerprint import BLOCK, at_once, by_blocks, fingerprints

DTYPES = ["float32", "bfloat16", "float16", "int32", "uint8", "int8", "bool", "float8_e4m3fn", "int4", "complex64"]


def of(x: jax.Array) -> str:
    return fingerprints({"x": x})["x"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element_counts(dtype: str) -> None:
    x = jax.random.randint(jax.random.key(0), (3, 5), 0, 2).astype(dtype)
    marks = {of(x)} | {of(x.at[i, j].set(1 - x[i, j])) for i in range(3) for j in range(5)}
    assert len(marks) == 16


def test_every_bit_counts() -> None:
    words = np.array([0x3F800000, 0x40490FDB], np.uint32)
    whole = of(jnp.asarray(words.view(np.float32)))
    for place in range(2):
        for bit in range(32):
            flipped = words.copy()
            flipped[place] ^= np.uint32(1 << bit)
            assert of(jax.device_put(flipped.view(np.float32))) != whole


def test_places_count() -> None:
    x = jnp.arange(12.0).reshape(3, 4)
    others = [x.T.reshape(3, 4), x[::-1], x[:, ::-1], jnp.roll(x, 1, 0), jnp.zeros_like(x), x.reshape(4, 3)]
    assert len({of(x), *map(of, others)}) == 6, "all but the reshaped one, whose elements are in the same order"


def test_devices_do_not_count() -> None:
    x = jax.random.normal(jax.random.key(1), (16, 8))
    mesh = make_mesh(data=4, tensor=2)
    places = [P(), P("data"), P(None, "data"), P("tensor", "data"), P(("data", "tensor"))]
    marks = {of(x)} | {of(jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))) for spec in places}
    assert len(marks) == 1


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 5])
def test_blocks_add_up_to_the_whole(size: int) -> None:
    bits = jax.random.bits(jax.random.key(size), (size,), jnp.uint32)
    one, other = jax.jit(at_once)(bits), jax.jit(by_blocks)(bits)
    assert one == other


def test_scalars_and_keys_and_nothing() -> None:
    assert of(jnp.int32(3)) != of(jnp.int32(4))
    assert of(jax.random.key(3)) != of(jax.random.key(4))
    assert of(jnp.zeros((0, 4))) == "00000000"
