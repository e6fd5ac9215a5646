"""The list of blocks that kernels walk over: all that is visible is in it, and little else."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from jaxformers.kernels.attention.blocks import blocks_for, fit, table
from jaxformers.kernels.attention.visibility import (
    FIRST,
    IDLE,
    LAST,
    WHOLE,
    Visibility,
    blocks_seen,
    inner_block,
    outer_block,
    rows,
    visible_array,
    walk,
)
from tests.kernels.test_flash_tpu import B, S, T, visibilities

SLOTS = jnp.arange(1024)


def walked(visibility: Visibility, length: int, block: int) -> list[int]:
    """How many blocks each row of the batch visits."""
    count = length // block
    some, every = blocks_seen(rows(visibility, (length, length), (length, length)), (count, count), (block, block))
    steps = np.asarray(walk(some, every).steps).reshape(some.shape[0], -1)
    return [int((row & IDLE == 0).sum()) for row in steps]


def test_a_causal_walk_is_half_of_all_and_a_window_is_a_band() -> None:
    causal = Visibility(SLOTS, high=SLOTS)
    assert walked(causal, 1024, 128) == [8 * 9 // 2]
    assert walked(Visibility(SLOTS, SLOTS - 127, SLOTS), 1024, 128) == [8 + 7]
    assert walked(Visibility(), 1024, 128) == [64]


def test_packed_documents_are_walked_one_by_one() -> None:
    segments = SLOTS[None] // 256
    both = {"q_segments": segments, "k_segments": segments}
    assert walked(Visibility(**both), 1024, 128) == [4 * 2 * 2]
    assert walked(Visibility(SLOTS, high=SLOTS, **both), 1024, 128) == [4 * 3]


def test_padding_is_walked_by_each_row_on_its_own() -> None:
    keys = SLOTS[None] >= jnp.array([[0], [512], [1024]])
    # A row that sees nothing visits one block for each of queries, to write zeros.
    assert walked(Visibility(keys=keys), 1024, 128) == [64, 32, 8]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(visibilities())
def test_a_walk_covers_what_is_visible(visibility: Visibility) -> None:
    """In order, each outer block begun and ended once, whole blocks wholly visible."""
    sizes, padded = (128, 128), (384, 384)
    some, every = blocks_seen(rows(visibility, (T, S), padded), (3, 3), sizes)
    seen = visible_array(visibility)
    seen = np.ones((1, T, S), bool) if seen is None else np.asarray(seen)
    seen = np.broadcast_to(seen, (B, T, S))
    for turned in (False, True):
        pair = (some.swapaxes(1, 2), every.swapaxes(1, 2)) if turned else (some, every)
        found = walk(*pair)
        steps = np.asarray(found.steps).reshape(some.shape[0], -1)
        work = [row[row & IDLE == 0] for row in steps]
        assert max(map(len, work)) == int(found.longest)
        for b in range(B):
            own = work[b if len(work) > 1 else 0]
            outer, inner = np.asarray(outer_block(own)), np.asarray(inner_block(own))
            assert sorted(zip(outer, inner, strict=True)) == list(zip(outer, inner, strict=True))
            turns = np.flatnonzero(np.diff(outer))
            np.testing.assert_array_equal(np.flatnonzero(own & FIRST), [0, *(turns + 1)])
            np.testing.assert_array_equal(np.flatnonzero(own & LAST), [*turns, len(own) - 1])
            assert set(outer) == {0, 1, 2}
            visited = np.zeros((3, 3), bool)
            visited[outer, inner] = True
            whole = np.zeros((3, 3), bool)
            whole[outer, inner] = own & WHOLE != 0
            if turned:
                visited, whole = visited.T, whole.T
            for i in range(3):
                for j in range(3):
                    block = seen[b, i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128]
                    assert visited[i, j] or not block.any()
                    assert not whole[i, j] or (block.all() and (j + 1) * 128 <= S)


@pytest.mark.parametrize(
    ("length", "block", "want"),
    [(1, 512, (128, 128)), (512, 512, (512, 512)), (1100, 512, (384, 1152)), (640, 512, (384, 768))],
)
def test_blocks_fit_the_length(length: int, block: int, want: tuple[int, int]) -> None:
    assert fit(length, block) == want


def test_every_device_has_blocks_for_every_shape() -> None:
    for kind in ("TPU v4", "TPU v5 lite", "TPU v5", "TPU v6 lite", "a device to come"):
        for dim in (8, 64, 80, 128, 192, 256):
            for itemsize in (2, 4):
                found = blocks_for(kind, dim, itemsize)
                assert all(size % 128 == 0 for pair in (found.forward, found.queries, found.keys) for size in pair)
    with pytest.raises(NotImplementedError, match="no row for head dimension 512"):
        blocks_for("TPU v4", 512, 2)
    assert set(table()) >= {"TPU v4", "default"}
