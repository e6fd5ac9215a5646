"""Ways to compute a mixture of experts on one device: every expert on every token, or each on its own rows.

All are called with tokens x [...,D], the chosen experts `index` [...,K], their `scores` [...,K], and
`ffn(rows, product, weights)`, which applies one expert: `product(rows, stacked)` multiplies rows by their own expert's
kernel. An index that is no expert's counts nothing. The sum over the chosen experts is taken in float32.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from jaxformers.core.qtensor import QTensor
from jaxformers.ops.dot import dot, einsum
from jaxformers.ops.grouped_product import grouped_product
from jaxformers.ops.quantized_dot import fixed, quantized_dot


@struct.dataclass
class Stacked:
    """One kernel for each expert, [E,in,out], perhaps with a bias [E,out]; axes: the logical names of (in, out)."""

    kernel: jax.Array | QTensor
    bias: jax.Array | None = None
    axes: tuple[str | None, str | None] = struct.field(pytree_node=False, default=(None, None))


Weights = tuple[Stacked, ...]
Product = Callable[[jax.Array, Stacked], jax.Array]
Ffn = Callable[[jax.Array, Product, Weights], jax.Array]

BLOCK = 128  # rows of one product in the grouped form


def dense(x: jax.Array, index: jax.Array, scores: jax.Array, ffn: Ffn, weights: Weights, *, experts: int) -> jax.Array:
    """Every expert on every token, weighted by zero where it was not chosen. Partitions over any mesh."""

    def product(rows: jax.Array, stacked: Stacked) -> jax.Array:
        kernel = stacked.kernel
        if isinstance(kernel, QTensor):
            kernel = kernel.replace(scale=fixed(kernel.scale)).dequantize(rows.dtype)  # type: ignore[attr-defined]
        y = einsum("...d,edf->e...f" if rows.ndim == x.ndim else "e...d,edf->e...f", rows, kernel)
        if stacked.bias is None:
            return y
        return y + stacked.bias.reshape(experts, *(1,) * (x.ndim - 1), -1)

    chosen = jax.nn.one_hot(index, experts, dtype=jnp.float32)  # [...,K,E]
    shares = jnp.sum(chosen * scores[..., None].astype(jnp.float32), axis=-2)
    return einsum("e...d,...e->...d", ffn(x, product, weights).astype(jnp.float32), shares).astype(x.dtype)


def check_unquantized(weights: Weights) -> None:
    """Raise NotImplementedError for quantised kernels, which `ragged_dot` would need multiplied out, all of them."""
    if any(isinstance(stacked.kernel, QTensor) for stacked in weights):
        raise NotImplementedError("the kernels are quantised; the grouped form reads them as they are stored")


def ragged(x: jax.Array, index: jax.Array, scores: jax.Array, ffn: Ffn, weights: Weights, *, experts: int) -> jax.Array:
    """Rows sorted by expert, multiplied by `grouped_product`, which TPUs compute without waste."""
    check_unquantized(weights)
    shape, x = x.shape, x.reshape(-1, x.shape[-1])
    flat = index.reshape(-1)
    order = jnp.argsort(flat, stable=True)
    tokens, owners = order // index.shape[-1], flat[order]
    sizes = jnp.bincount(flat, length=experts).astype(jnp.int32)

    def product(rows: jax.Array, stacked: Stacked) -> jax.Array:
        y = grouped_product(rows, stacked.kernel, sizes)
        return y if stacked.bias is None else y + stacked.bias[owners]

    y = ffn(x[tokens], product, weights).astype(jnp.float32)
    # Rows of nobody come last, and what is computed for them is not defined.
    y = jnp.where((owners < experts)[:, None], y, 0) * scores.reshape(-1)[order][:, None].astype(jnp.float32)
    return jnp.zeros((x.shape[0], y.shape[-1]), jnp.float32).at[tokens].add(y).astype(x.dtype).reshape(shape)


def grouped(
    x: jax.Array, index: jax.Array, scores: jax.Array, ffn: Ffn, weights: Weights, *, experts: int
) -> jax.Array:
    """Rows sorted by expert and cut into blocks of one expert each, which are computed one after another."""
    shape, x, top_k = x.shape, x.reshape(-1, x.shape[-1]), index.shape[-1]
    count = x.shape[0]
    rows = count * top_k
    size = min(BLOCK, max(1, rows // experts))
    # Each expert wastes less than one block; blocks of one row waste nothing.
    blocks = rows if size == 1 else rows // size + min(experts, rows)
    flat = index.reshape(-1)
    order = jnp.argsort(flat, stable=True)
    owners = flat[order]
    sizes = jnp.bincount(flat, length=experts)
    filled = jnp.cumsum(-(-sizes // size))  # blocks up to and with each expert
    first = (filled + sizes // -size) * size  # padded row at which each expert starts
    places = first[owners] + jnp.arange(rows) - (jnp.cumsum(sizes) - sizes)[owners]
    places = jnp.where(owners < experts, places, blocks * size)
    # A padding row names token `count`, which does not exist: it reads zeros and its result is dropped.
    tokens = jnp.full((blocks * size,), count).at[places].set(order // top_k, mode="drop")
    shares = scores.reshape(-1)[order].astype(jnp.float32)
    shares = jnp.zeros((blocks * size,), jnp.float32).at[places].set(shares, mode="drop")
    experts_of = jnp.minimum(jnp.searchsorted(filled, jnp.arange(blocks), side="right"), experts - 1)

    def one(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        tokens, expert = block

        def product(rows: jax.Array, stacked: Stacked) -> jax.Array:
            kernel = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, expert, 0, False), stacked.kernel)
            y = quantized_dot(rows, kernel) if isinstance(kernel, QTensor) else dot(rows, kernel)
            if stacked.bias is None:
                return y
            return y + jax.lax.dynamic_index_in_dim(stacked.bias, expert, 0, False)

        return ffn(jnp.asarray(x).at[tokens].get(mode="fill", fill_value=0), product, weights)

    y = jax.lax.map(one, (tokens.reshape(blocks, size), experts_of))
    y = y.reshape(blocks * size, -1).astype(jnp.float32) * shares[:, None]
    sums = jnp.zeros((count, y.shape[-1]), jnp.float32).at[tokens].add(y, mode="drop")
    return sums.astype(x.dtype).reshape(shape)
