"""A head's cross-entropy token by token: scores of a few tokens at a time, computed again for the gradient.

The matrix is read once for each chunk, so this is for vocabularies that are smaller than the batch.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxformers.ops.cross_entropy_parts import (
    IGNORED,
    Pair,
    Scores,
    Split,
    axes,
    counted,
    first_word,
    pick,
    product,
    together,
)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def in_chunks(x, matrix, bias, labels, scores: Scores, split: Split, chunk: int) -> Pair:
    """The loss and the logarithm of the sum for each token."""
    return forward(x, matrix, bias, labels, scores, split, chunk)[0]


def forward(x, matrix, bias, labels, scores: Scores, split: Split, chunk: int):
    """The result, and what the gradient needs."""
    words = matrix.shape[0]

    def local(x: jax.Array, matrix: jax.Array, bias: jax.Array | None, labels: jax.Array) -> Pair:
        at = labels.reshape(-1) - first_word(matrix.shape[0], split)

        def one(_: None, part: Pair) -> tuple[None, tuple[jax.Array, ...]]:
            z = scores.of(part[0], matrix, bias)
            return None, (jax.nn.logsumexp(z, axis=1), pick(z, part[1]), z.sum(axis=1))

        parts = (cut(x.reshape(-1, x.shape[-1]), chunk), cut(at, chunk))
        total, picked, added = (joined(y, at.size) for y in jax.lax.scan(one, None, parts)[1])
        total, picked, added = together((total, picked, added), split)
        loss = counted(scores.loss(total, picked, added / words), labels.reshape(-1), words)
        return loss.reshape(labels.shape), total.reshape(labels.shape)

    out = split(local, inputs(split), (split.tokens, split.tokens))(x, matrix, bias, labels)
    return out, (x, matrix, bias, labels, out[1])


def backward(scores: Scores, split: Split, chunk: int, kept, given: Pair):
    """Gradients of x, matrix and bias."""
    words = kept[1].shape[0]

    def local(x, matrix, bias, labels, total, of_loss, of_total):
        flat = labels.reshape(-1)
        of_loss = jnp.where(flat == IGNORED, 0.0, of_loss.reshape(-1))
        parts = (flat - first_word(matrix.shape[0], split), total.reshape(-1), of_loss, of_total.reshape(-1))

        def one(sums, part):
            x, at, total, of_loss, of_total = part
            z = scores.of(x, matrix, bias)
            target = (1.0 - scores.smoothing) * (at[:, None] == jnp.arange(z.shape[1])) + scores.smoothing / words
            d = (of_loss + of_total)[:, None] * jnp.exp(z - total[:, None]) - of_loss[:, None] * target
            d = scores.back(d, z)
            rows = product(d.astype(x.dtype), matrix, 1, 0)
            rows = rows if axes(split.words) else rows.astype(x.dtype)
            columns = (product(d.astype(x.dtype), x, 0, 0), None if bias is None else d.sum(axis=0))
            return jax.tree.map(jnp.add, sums, columns), rows

        start = (jnp.zeros(matrix.shape, jnp.float32), None if bias is None else jnp.zeros(bias.shape, jnp.float32))
        flat_x = x.reshape(-1, x.shape[-1])
        sums, rows = jax.lax.scan(one, start, tuple(cut(y, chunk) for y in (flat_x, *parts)))
        rows = joined(rows, flat.size).reshape(x.shape)
        rows = jax.lax.psum(rows, axes(split.words)) if axes(split.words) else rows
        return rows.astype(x.dtype), *gathered(sums, matrix, bias, split)

    kinds = (*inputs(split), split.tokens, split.tokens, split.tokens)
    x, matrix, bias = split(local, kinds, (split.rows, split.columns, split.words))(*kept, *given)
    return x, matrix, bias, None


in_chunks.defvjp(forward, backward)


def gathered(sums: tuple, matrix: jax.Array, bias: jax.Array | None, split: Split) -> tuple:
    """Gradients of matrix and bias, added up over all devices that saw other tokens."""
    columns, ends = sums
    over = axes(split.tokens)
    if split.width:
        columns = jax.lax.psum_scatter(columns, split.width, scatter_dimension=1, tiled=True)
    columns = jax.lax.psum(columns, split.rest) if split.rest else columns
    if bias is not None:
        ends = (jax.lax.psum(ends, over) if over else ends).astype(bias.dtype)
    return columns.astype(matrix.dtype), ends


def inputs(split: Split) -> tuple[PartitionSpec, ...]:
    """How x, matrix, bias and labels are shared out: the matrix's width is whole on every device."""
    return split.rows, PartitionSpec(*split.words, None), split.words, split.tokens


def cut(x: jax.Array, chunk: int) -> jax.Array:
    """x [N,...] as chunks [N/chunk,chunk,...], the last one filled up with zeros."""
    missing = -x.shape[0] % chunk
    x = jnp.pad(x, ((0, missing),) + ((0, 0),) * (x.ndim - 1)) if missing else x
    return x.reshape(-1, chunk, *x.shape[1:])


def joined(x: jax.Array, count: int) -> jax.Array:
    """Chunks put together again, without what filled the last one up."""
    return x.reshape(-1, *x.shape[2:])[:count]
