"""Flash attention on TPUs: softmax(softcap(q k^T * scale) + bias, masked) v, block by block in fast memory.

Sources: arXiv:2205.14135 (the algorithm), arXiv:1805.02867 (softmax with running statistics).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxformers.kernels.attention.bias_gradient import bias_gradient
from jaxformers.kernels.attention.flash_tpu_backward import gradients
from jaxformers.kernels.attention.tpu_blocks import (
    EMPTY,
    HIDDEN,
    Inputs,
    Settings,
    each_step,
    input_specs,
    merges,
    plan,
    product,
    query_spec,
    scores,
)
from jaxformers.kernels.attention.visibility import Visibility

KEPT = "context"


def flash_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    visibility: Visibility,
    settings: Settings,
    *,
    bias: jax.Array | None = None,
    sinks: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return the output [B,T,H,Dv] and the log of each query's sum of exponentials, float32 [B,H,T].

    q [B,T,H,D], k [B,S,K,D], v [B,S,K,Dv], bias [1|B,1|H,1|T,1|S], sinks [H]. A query that sees nothing gives zeros,
    and -1e30 for the logarithm. Both outputs can be differentiated.
    """
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    out, lse = attend(settings, q, k, v, bias, sinks, visibility)
    merged = out.ndim == 3
    return out.reshape(*out.shape[:2], q.shape[1], -1) if merged else jnp.swapaxes(out, 1, 2), lse


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(settings: Settings, q, k, v, bias, sinks, visibility: Visibility) -> tuple[jax.Array, jax.Array]:
    """`flash_attention` of q [B,H,T,D], k, v [B,K,S,D|Dv]: the output as `merges` says, and the logarithm [B,H,T]."""
    return forward(settings, Inputs(q, k, v, bias), sinks, visibility)


def attend_and_save(settings: Settings, q, k, v, bias, sinks, visibility: Visibility):
    """The outputs, and what gradients need."""
    # By this name a rematerialisation policy may keep both, and then the backward pass needs no second forward pass.
    out, lse = (checkpoint_name(x, KEPT) for x in forward(settings, Inputs(q, k, v, bias), sinks, visibility))
    return (out, lse), (q, k, v, bias, sinks, visibility, out, lse)


def attend_backward(settings: Settings, saved, grads):
    """Gradients of q, k, v, bias and sinks; one that nobody uses is dropped by the compiler."""
    q, k, v, bias, sinks, visibility, out, lse = saved
    grad, grad_lse = grads
    delta = over_values(grad, out, q.shape[1]) - grad_lse
    # For a query that saw nothing, a large divisor: its probabilities are zeros here as they were there.
    lse = jnp.where(lse < EMPTY, -HIDDEN, lse)
    x = Inputs(q, k, v, bias, None, grad, lse[:, :, None], delta[:, :, None])
    d_bias = None if bias is None else bias_gradient(x, settings, visibility)
    d_sinks = None
    if sinks is not None:
        share = jnp.exp(sinks.astype(jnp.float32)[None, :, None] - lse)
        d_sinks = -jnp.sum(share * delta, axis=(0, 2)).astype(sinks.dtype)
    return *gradients(settings, x, visibility), d_bias, d_sinks, None


def over_values(grad: jax.Array, out: jax.Array, heads: int) -> jax.Array:
    """Sum of gradient times output over each head's values, float32 [B,H,T]."""
    both = grad.astype(jnp.float32) * out.astype(jnp.float32)
    if both.ndim == 4:
        return both.sum(-1)
    # To give heads an axis of their own would move the whole array; a product with ones does not.
    ones = jnp.repeat(jnp.eye(heads, dtype=jnp.float32), both.shape[-1] // heads, axis=1)
    return jnp.einsum("btx,hx->bht", both, ones, precision=jax.lax.Precision.HIGHEST)


attend.defvjp(attend_and_save, attend_backward)


def forward(settings: Settings, x: Inputs, sinks, visibility: Visibility) -> tuple[jax.Array, jax.Array]:
    """Walk over the blocks of queries, and for each over the keys it sees."""
    length = x.q.shape[2]
    work = plan(x, visibility, settings.blocks.forward)
    steps, place = work.by_queries()
    x, (size, _) = work.x, work.sizes
    (b, h, t, _), dv = x.q.shape, x.v.shape[-1]

    def statistic(*grid):
        b, h, i, _ = place(*grid)
        return b, h, 0, i

    out_shape = jax.ShapeDtypeStruct((b, t, h * dv) if merges(dv) else (b, h, t, dv), x.q.dtype)
    if sinks is not None:
        sinks = sinks.astype(jnp.float32)
    out, lse = pl.pallas_call(
        partial(forward_kernel, settings, place),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(b, h, steps.longest),
            in_specs=[
                input_specs(x, work.sizes, place),
                None if sinks is None else pl.BlockSpec(memory_space=pltpu.SMEM),
            ],
            out_specs=[
                query_spec(out_shape, size, place, h),
                pl.BlockSpec((None, None, 1, size), statistic),
            ],
            scratch_shapes=[
                pltpu.VMEM((dv, size), jnp.float32),
                pltpu.VMEM((1, size), jnp.float32),
                pltpu.VMEM((1, size), jnp.float32),
            ],
        ),
        out_shape=[
            out_shape,
            jax.ShapeDtypeStruct((b, h, 1, t), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=settings.vmem
        ),
        interpret=settings.interpret,
        name="jaxformers_flash_forward",
    )(steps.steps, x, sinks)
    return jax.lax.slice_in_dim(out, 0, length, axis=out.ndim - 2), lse[:, :, 0, :length]


def forward_kernel(settings: Settings, place, steps, x: Inputs, sinks, out, lse, total, largest, mass) -> None:
    """One block of scores. Scratch: weighted values so far [Dv,queries], largest score, sum of powers [1,queries]."""
    batch, head, n = (pl.program_id(axis) for axis in range(3))

    def begin() -> None:
        total[...] = jnp.zeros_like(total)
        # A sink is one more key, seen first, without a value.
        largest[...] = jnp.full_like(largest, HIDDEN if sinks is None else sinks[head])
        mass[...] = jnp.full_like(mass, 0.0 if sinks is None else 1.0)

    def add(masked: bool) -> None:
        s = scores(x, settings, batch, masked).values
        before = largest[...]
        now = jnp.maximum(before, jnp.max(s, axis=0, keepdims=True))
        largest[...] = now
        # Where nothing was seen yet, the powers of hidden scores must be 0, not exp(HIDDEN - HIDDEN) = 1.
        base = jnp.where(now < EMPTY, 0.0, now) if masked else now
        powers, fade = jnp.exp(s - base), jnp.exp(before - base)
        mass[...] = mass[...] * fade + jnp.sum(powers, axis=0, keepdims=True)
        v = x.v[...]
        total[...] = total[...] * fade + product(v, powers.astype(v.dtype), (0, 0))

    def end() -> None:
        seen = mass[...] > 0.0
        whole = jnp.where(seen, mass[...], 1.0)
        out[...] = (total[...] / whole).T.astype(out.dtype)
        lse[...] = jnp.where(seen, largest[...] + jnp.log(whole), HIDDEN)

    each_step(place.step(batch, n, steps), begin, add, end)
