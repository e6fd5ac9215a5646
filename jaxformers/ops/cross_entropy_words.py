"""A head's cross-entropy word by word: scores of all tokens for a few words at a time, computed again for the gradient.

Hidden states are read once for each block, and the matrix once in all, of which a device that has a part of its width
gathers the block's rows only. So this is for vocabularies that are larger than the batch, as most are.
"""

from functools import partial

import jax
import jax.numpy as jnp

from jaxformers.ops.cross_entropy_parts import (
    IGNORED,
    Pair,
    Scores,
    Split,
    Sums,
    axes,
    counted,
    first_word,
    pick,
    product,
    together,
)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def in_blocks(x, matrix, bias, labels, scores: Scores, split: Split, size: int) -> Pair:
    """The loss and the logarithm of the sum for each token; `size` words at a time on each device."""
    return forward(x, matrix, bias, labels, scores, split, size)[0]


def forward(x, matrix, bias, labels, scores: Scores, split: Split, size: int):
    """The result, and what the gradient needs."""
    words = matrix.shape[0]

    def local(x: jax.Array, matrix: jax.Array, bias: jax.Array | None, labels: jax.Array) -> Pair:
        flat, rows = labels.reshape(-1), x.reshape(-1, x.shape[-1])
        at = flat - first_word(matrix.shape[0], split)

        def one(sums: Sums, n: jax.Array) -> tuple[Sums, None]:
            start, kernel, offset, new = block(matrix, bias, n, size, split)
            z = jnp.where(new, scores.of(rows, kernel, offset), -jnp.inf)
            total = jnp.logaddexp(sums[0], jax.nn.logsumexp(z, axis=1))
            # A place that an earlier block had is none in this one.
            place = jnp.where(at >= n * size, at - start, -1)
            return (total, sums[1] + pick(z, place), sums[2] + z.sum(axis=1, where=new)), None

        nothing = jnp.zeros(flat.shape, jnp.float32)
        sums, _ = jax.lax.scan(one, (nothing - jnp.inf, nothing, nothing), jnp.arange(count(matrix, size)))
        total, picked, added = together(sums, split)
        loss = counted(scores.loss(total, picked, added / words), flat, words)
        return loss.reshape(labels.shape), total.reshape(labels.shape)

    out = split(local, inputs(split), (split.tokens, split.tokens))(x, matrix, bias, labels)
    return out, (x, matrix, bias, labels, out[1])


def backward(scores: Scores, split: Split, size: int, kept, given: Pair):
    """Gradients of x, matrix and bias."""
    words = kept[1].shape[0]

    def local(x, matrix, bias, labels, total, of_loss, of_total):
        flat, rows = labels.reshape(-1), x.reshape(-1, x.shape[-1])
        of_loss = jnp.where(flat == IGNORED, 0.0, of_loss.reshape(-1))
        share = of_loss + of_total.reshape(-1)
        at, total = flat - first_word(matrix.shape[0], split), total.reshape(-1)

        def one(grads, n):
            start, kernel, offset, new = block(matrix, bias, n, size, split)
            z = scores.of(rows, kernel, offset)
            own = (at - start)[:, None] == jnp.arange(size)
            target = (1.0 - scores.smoothing) * own + scores.smoothing / words
            d = scores.back(share[:, None] * jnp.exp(z - total[:, None]) - of_loss[:, None] * target, z)
            ends, d = None if bias is None else d.sum(axis=0), d.astype(x.dtype)
            # Rows that an earlier block had are counted there; what they get here is written over with the same.
            along = grads[0] + product(d, jnp.where(new[:, None], kernel, 0), 1, 0)
            columns, ends = summed(product(d, rows, 0, 0), ends, split)
            columns = jax.lax.dynamic_update_slice_in_dim(grads[1], columns.astype(matrix.dtype), start, 0)
            if bias is not None and ends is not None:
                ends = jax.lax.dynamic_update_slice_in_dim(grads[2], ends.astype(bias.dtype), start, 0)
            return (along, columns, ends), None

        begin = (jnp.zeros(rows.shape, jnp.float32), *jax.tree.map(jnp.zeros_like, (matrix, bias)))
        (along, columns, ends), _ = jax.lax.scan(one, begin, jnp.arange(count(matrix, size)))
        along = jax.lax.psum(along, axes(split.words)) if axes(split.words) else along
        return along.astype(x.dtype).reshape(x.shape), columns, ends

    kinds = (*inputs(split), split.tokens, split.tokens, split.tokens)
    x, matrix, bias = split(local, kinds, (split.rows, split.columns, split.words))(*kept, *given)
    return x, matrix, bias, None


in_blocks.defvjp(forward, backward)


def inputs(split: Split) -> tuple:
    """How x, matrix, bias and labels are shared out."""
    return split.rows, split.columns, split.words, split.tokens


def count(matrix: jax.Array, size: int) -> int:
    """How many blocks there are."""
    return -(-matrix.shape[0] // size)


def block(matrix: jax.Array, bias: jax.Array | None, n: jax.Array, size: int, split: Split):
    """The n-th block: its first row, its rows with their whole width, their bias, and which rows no block had before.

    The last block begins early enough to be as large as the others.
    """
    start = jnp.minimum(n * size, matrix.shape[0] - size)
    kernel = jax.lax.dynamic_slice_in_dim(matrix, start, size)
    if split.width:
        kernel = jax.lax.all_gather(kernel, split.width, axis=1, tiled=True)
    offset = None if bias is None else jax.lax.dynamic_slice_in_dim(bias, start, size)
    return start, kernel, offset, start + jnp.arange(size) >= n * size


def summed(columns: jax.Array, ends: jax.Array | None, split: Split) -> tuple[jax.Array, jax.Array | None]:
    """A block's gradients of matrix and bias, added up over all devices that saw other tokens."""
    if split.width:
        columns = jax.lax.psum_scatter(columns, split.width, scatter_dimension=1, tiled=True)
    columns = jax.lax.psum(columns, split.rest) if split.rest else columns
    over = axes(split.tokens)
    return columns, jax.lax.psum(ends, over) if over and ends is not None else ends
