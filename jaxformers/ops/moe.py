"""Mixtures of experts: each token runs through its own few feed-forward networks, and their outputs are summed.

The op takes tokens x [...,D], the chosen experts `index` [...,K], their `scores` [...,K], `ffn(rows, product, weights)`
and the experts' weights; see `ops.moe_forms` for what these are.
"""

import jax
import jax.numpy as jnp

from jaxformers.core.sharding import mesh_in_use
from jaxformers.ops.dispatch import Op, target_platform
from jaxformers.ops.moe_exchange import exchange, plan_layout
from jaxformers.ops.moe_forms import Ffn, Weights, dense, grouped, ragged
from jaxformers.ops.top_k import largest

FEW_NUMBERS = 2**18  # kernels smaller than this are not worth sorting for

moe = Op("moe", dense)


def check_worthwhile(index: jax.Array, experts: int, weights: Weights) -> None:
    """Pass where the dense form is as good: few or small experts."""
    numbers = sum(stacked.kernel.size for stacked in weights)
    if experts < 2 * index.shape[-1]:
        raise NotImplementedError(f"{index.shape[-1]} of {experts} experts are chosen; the dense form does little more")
    if numbers < FEW_NUMBERS:
        raise NotImplementedError(f"the experts hold only {numbers} numbers")


def check_one_device() -> None:
    """Pass where tokens are spread over a mesh: sorting them would gather them."""
    mesh = mesh_in_use()
    if mesh is not None and mesh.size > 1:
        raise NotImplementedError("tokens are spread over a mesh, and sorting would gather them")


@moe.register("exchange", priority=20)
def exchange_checked(x: jax.Array, index: jax.Array, scores: jax.Array, ffn: Ffn, weights: Weights, *, experts: int):
    """`exchange`, where experts are spread over a mesh, or worth sorting the tokens of each device for."""
    at = plan_layout(x, weights)
    if at.parts == 1:
        check_worthwhile(index, experts, weights)
    return exchange(at, on_each_device, x, index, scores, ffn, weights, experts)


def on_each_device(x: jax.Array, index: jax.Array, scores: jax.Array, ffn: Ffn, weights: Weights, *, experts: int):
    """The form that suits what one device of a mesh has to do."""
    try:
        check_worthwhile(index, experts, weights)
    except NotImplementedError:
        return dense(x, index, scores, ffn, weights, experts=experts)
    try:
        form = ragged if target_platform() == "tpu" else grouped
        return form(x, index, scores, ffn, weights, experts=experts)
    except NotImplementedError:
        return grouped(x, index, scores, ffn, weights, experts=experts)


@moe.register("ragged", platforms=("tpu",), priority=10)
def ragged_checked(x: jax.Array, index: jax.Array, scores: jax.Array, ffn: Ffn, weights: Weights, *, experts: int):
    """`ragged`, where it is worth it."""
    check_worthwhile(index, experts, weights)
    check_one_device()
    return ragged(x, index, scores, ffn, weights, experts=experts)


@moe.register("grouped", priority=5)
def grouped_checked(x: jax.Array, index: jax.Array, scores: jax.Array, ffn: Ffn, weights: Weights, *, experts: int):
    """`grouped`, where it is worth it."""
    check_worthwhile(index, experts, weights)
    check_one_device()
    return grouped(x, index, scores, ffn, weights, experts=experts)


def load_balance(logits: tuple[jax.Array, ...], top_k: int, real: jax.Array | None = None) -> jax.Array:
    """The loss that evens out the experts' load: experts * sum(share of tokens * mean probability), over all layers.

    logits: [N,E] of each layer. real [N]: which tokens are not padding. Source: arXiv:2101.03961.
    """
    experts = logits[0].shape[-1]
    weight = jnp.ones(logits[0].shape[0]) if real is None else real.reshape(-1).astype(jnp.float32)

    def one(sums: tuple[jax.Array, jax.Array], logits: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        p = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
        chosen = jax.nn.one_hot(largest(p, top_k)[1], experts).sum(axis=1)
        return (sums[0] + weight @ chosen, sums[1] + weight @ p), None

    # One search for all layers: TPUs' compiler takes seconds for each sort.
    (tokens, probability), _ = jax.lax.scan(one, (jnp.zeros(experts), jnp.zeros(experts)), jnp.stack(logits))
    total = weight.sum() * len(logits)
    return experts * jnp.sum((tokens / total) * (probability / total))
