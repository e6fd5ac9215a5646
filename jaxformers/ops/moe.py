"""Mixtures of experts: each token runs through its own few feed-forward networks, and their outputs are summed.

An op is called with tokens x [N,D], the chosen experts `index` [N,K], their `scores` [N,K], the number of experts, and
`ffn(rows, product)`, which applies one expert: `product(rows, kernel, bias)` multiplies rows by their own expert's
kernel, out of a stack [E,in,out]. The sum over the chosen experts is taken in float32.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxformers.core.sharding import mesh_in_use
from jaxformers.ops.dispatch import Op
from jaxformers.ops.dot import dot, einsum, precision

Product = Callable[..., jax.Array]
Ffn = Callable[[jax.Array, Product], jax.Array]

BLOCK = 128  # rows of one product in the grouped form
FEW_NUMBERS = 2**18  # kernels smaller than this are not worth sorting for


def dense(x: jax.Array, index: jax.Array, scores: jax.Array, ffn: Ffn, *, experts: int, numbers: int) -> jax.Array:
    """Every expert on every token, weighted by zero where it was not chosen. Partitions over any mesh."""

    def product(rows: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        y = einsum("nd,edf->enf" if rows.ndim == 2 else "end,edf->enf", rows, kernel)
        return y if bias is None else y + bias[:, None]

    weights = jnp.zeros((x.shape[0], experts), jnp.float32)
    weights = weights.at[jnp.arange(x.shape[0])[:, None], index].add(scores.astype(jnp.float32))
    return einsum("end,ne->nd", ffn(x, product).astype(jnp.float32), weights).astype(x.dtype)


moe = Op("moe", dense)


def check_worthwhile(index: jax.Array, experts: int, numbers: int) -> None:
    """Pass where the dense form is as good: few or small experts, or tokens spread over a mesh."""
    if experts < 2 * index.shape[1]:
        raise NotImplementedError(f"{index.shape[1]} of {experts} experts are chosen; the dense form does little more")
    if numbers < FEW_NUMBERS:
        raise NotImplementedError(f"the experts hold only {numbers} numbers")
    mesh = mesh_in_use()
    if mesh is not None and mesh.size > 1:
        raise NotImplementedError("tokens are spread over a mesh, and sorting would gather them")


@moe.register("ragged", platforms=("tpu",), priority=10)
def ragged_checked(x: jax.Array, index: jax.Array, scores: jax.Array, ffn: Ffn, *, experts: int, numbers: int):
    """`ragged`, where it is worth it."""
    check_worthwhile(index, experts, numbers)
    return ragged(x, index, scores, ffn, experts=experts)


@moe.register("grouped", priority=5)
def grouped_checked(x: jax.Array, index: jax.Array, scores: jax.Array, ffn: Ffn, *, experts: int, numbers: int):
    """`grouped`, where it is worth it."""
    check_worthwhile(index, experts, numbers)
    return grouped(x, index, scores, ffn, experts=experts)


def ragged(x: jax.Array, index: jax.Array, scores: jax.Array, ffn: Ffn, *, experts: int) -> jax.Array:
    """Rows sorted by expert, multiplied by `jax.lax.ragged_dot`, which TPUs compute without waste."""
    flat = index.reshape(-1)
    order = jnp.argsort(flat, stable=True)
    tokens, owners = order // index.shape[1], flat[order]
    sizes = jnp.bincount(flat, length=experts).astype(jnp.int32)

    def product(rows: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        y = jax.lax.ragged_dot(rows, kernel, sizes, precision=precision(rows, kernel))
        return y if bias is None else y + bias[owners]

    y = ffn(x[tokens], product).astype(jnp.float32) * scores.reshape(-1)[order][:, None].astype(jnp.float32)
    return jnp.zeros((x.shape[0], y.shape[-1]), jnp.float32).at[tokens].add(y).astype(x.dtype)


def grouped(x: jax.Array, index: jax.Array, scores: jax.Array, ffn: Ffn, *, experts: int) -> jax.Array:
    """Rows sorted by expert and cut into blocks of one expert each, which are computed one after another."""
    count, top_k = index.shape
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
    # A padding row names token `count`, which does not exist: it reads zeros and its result is dropped.
    tokens = jnp.full((blocks * size,), count).at[places].set(order // top_k)
    weights = jnp.zeros((blocks * size,), jnp.float32).at[places].set(scores.reshape(-1)[order].astype(jnp.float32))
    experts_of = jnp.minimum(jnp.searchsorted(filled, jnp.arange(blocks), side="right"), experts - 1)

    def one(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        tokens, expert = block

        def product(rows: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
            y = dot(rows, jax.lax.dynamic_index_in_dim(kernel, expert, 0, False))
            return y if bias is None else y + jax.lax.dynamic_index_in_dim(bias, expert, 0, False)

        return ffn(jnp.asarray(x).at[tokens].get(mode="fill", fill_value=0), product)

    y = jax.lax.map(one, (tokens.reshape(blocks, size), experts_of))
    y = y.reshape(blocks * size, -1).astype(jnp.float32) * weights[:, None]
    return jnp.zeros((count, y.shape[-1]), jnp.float32).at[tokens].add(y, mode="drop").astype(x.dtype)


def load_balance(logits: tuple[jax.Array, ...], top_k: int, real: jax.Array | None = None) -> jax.Array:
    """The loss that evens out the experts' load: experts * sum(share of tokens * mean probability), over all layers.

    logits: [N,E] of each layer. real [N]: which tokens are not padding. Source: arXiv:2101.03961.
    """
    experts = logits[0].shape[-1]
    weight = jnp.ones(logits[0].shape[0]) if real is None else real.reshape(-1).astype(jnp.float32)
    tokens = probability = jnp.zeros(experts)
    for one in logits:
        p = jax.nn.softmax(one.astype(jnp.float32), axis=-1)
        chosen = jax.nn.one_hot(jax.lax.top_k(p, top_k)[1], experts).sum(axis=1)
        tokens = tokens + weight @ chosen
        probability = probability + weight @ p
    total = weight.sum() * len(logits)
    return experts * jnp.sum((tokens / total) * (probability / total))
