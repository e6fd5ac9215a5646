"""Bytes that the decode kernel reads, counted from its own list of blocks, against what a cache holds."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.kernels.attention.decode_blocks import Settings, Stored
from jaxformers.kernels.attention.decode_tpu import lay_out
from jaxformers.kernels.attention.visibility import IDLE, Visibility

H, K, D, LENGTH, WRITTEN = 32, 8, 128, 8192, 5000


def stored(kind: str) -> Stored:
    if kind == "paged":
        pages = jnp.zeros((LENGTH // 128, 128, K, D), jnp.bfloat16)
        return Stored(pages, pages, table=jnp.arange(LENGTH // 128)[None])
    keys = jnp.zeros((1, LENGTH, K, D), jnp.int8 if kind == "int8" else jnp.bfloat16)
    scale = jnp.zeros((1, LENGTH, K)) if kind == "int8" else None
    return Stored(keys, keys, scale, scale)


def traffic(kind: str, left: int | None = None) -> tuple[int, int, int]:
    """Bytes that the kernel reads for one row, of keys and values that are visible, and of a block."""
    at, slots = jnp.array([WRITTEN - 1]), jnp.arange(LENGTH)
    rules = Visibility(slots, None if left is None else at - left, at, keys=slots[None] >= 0)
    work = lay_out(jnp.zeros((1, 1, H, D), jnp.bfloat16), stored(kind), rules, Settings(0.1), None, None)
    keys, rows = work.keys[0], work.place.tokens * K
    each = 0
    for name, x in keys._asdict().items():
        if x is not None and name != "head":  # the same at every step, so fetched once
            each += rows * x.dtype.itemsize * (D if name in ("k", "v") else 1)
    steps = (np.asarray(work.steps) & IDLE) == 0
    token = 2 * K * (D * keys.k.dtype.itemsize + (4 if kind == "int8" else 0))
    return int(steps.sum()) * each, token * (WRITTEN if left is None else left + 1), each


@pytest.mark.parametrize("kind", ["dense", "int8", "paged"])
def test_little_more_is_read_than_is_visible(kind: str) -> None:
    """Some hundredths, and what of the first and last block is not visible."""
    for left in (None, 1023):
        read, ideal, block = traffic(kind, left)
        print(kind, left, read / 2**20, ideal / 2**20)
        assert ideal <= read <= 1.06 * ideal + block
