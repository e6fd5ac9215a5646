"""Gradients of flash attention on TPUs: scores are computed again, block by block, from q, k and the saved logarithm.

Two kernels: one walks over queries and sums over keys, the other over keys and sums over queries and the heads that
share a key. Source: arXiv:2205.14135.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxformers.kernels.attention.tpu_blocks import (
    Inputs,
    Settings,
    each_step,
    input_specs,
    plan,
    product,
    query_spec,
    scores,
)
from jaxformers.kernels.attention.visibility import Visibility


def gradients(settings: Settings, x: Inputs, visibility: Visibility) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of q, k and v, in their dtypes and shapes."""
    return query_gradient(settings, x, visibility), *key_gradients(settings, x, visibility)


def query_gradient(settings: Settings, x: Inputs, visibility: Visibility) -> jax.Array:
    """Walk over the blocks of queries, and for each over the keys it sees."""
    length = x.q.shape[2]
    work = plan(x, visibility, settings.blocks.queries)
    steps, place = work.by_queries()
    x, (size, _) = work.x, work.sizes
    b, h, _, d = x.q.shape
    grad = pl.pallas_call(
        partial(query_kernel, settings, place),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(b, h, steps.longest),
            in_specs=[input_specs(x, work.sizes, place)],
            out_specs=query_spec(x.q, size, place),
            scratch_shapes=[pltpu.VMEM((d, size), jnp.float32)],
        ),
        out_shape=jax.ShapeDtypeStruct(x.q.shape, x.q.dtype),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=settings.vmem
        ),
        interpret=settings.interpret,
        name="jaxformers_flash_query_gradient",
    )(steps.steps, x)
    return grad[:, :, :length]


def query_kernel(settings: Settings, place, steps, x: Inputs, out, total) -> None:
    """One block of scores; scratch: the gradient so far [D,queries]."""
    batch, n = pl.program_id(0), pl.program_id(2)

    def begin() -> None:
        total[...] = jnp.zeros_like(total)

    def add(masked: bool) -> None:
        k = x.k[...]
        _, wanted = score_gradient(x, settings, batch, masked)
        total[...] += product(k, wanted.astype(k.dtype), (0, 0))

    def end() -> None:
        out[...] = (total[...] * settings.scale).T.astype(out.dtype)

    each_step(place.step(batch, n, steps), begin, add, end)


def key_gradients(settings: Settings, x: Inputs, visibility: Visibility) -> tuple[jax.Array, jax.Array]:
    """Walk over the blocks of keys, and for each over the queries that see it, of all heads that share it."""
    length = x.k.shape[2]
    work = plan(x, visibility, settings.blocks.keys)
    steps, place = work.by_keys()
    x, (_, size) = work.x, work.sizes
    (b, heads, _, d), dv = x.k.shape, x.v.shape[-1]
    groups = x.q.shape[1] // heads

    def at(b, h, n, g, steps):
        return b, h, place(b, h, n, g, steps)[3], 0

    d_k, d_v = pl.pallas_call(
        partial(key_kernel, settings, place, groups),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(b, heads, steps.longest, groups),
            in_specs=[input_specs(x, work.sizes, place)],
            out_specs=[pl.BlockSpec((None, None, size, d), at), pl.BlockSpec((None, None, size, dv), at)],
            scratch_shapes=[pltpu.VMEM((size, d), jnp.float32), pltpu.VMEM((size, dv), jnp.float32)],
        ),
        out_shape=[jax.ShapeDtypeStruct(x.k.shape, x.k.dtype), jax.ShapeDtypeStruct(x.v.shape, x.v.dtype)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=settings.vmem
        ),
        interpret=settings.interpret,
        name="jaxformers_flash_key_gradients",
    )(steps.steps, x)
    return d_k[:, :, :length], d_v[:, :, :length]


def key_kernel(settings: Settings, place, groups: int, steps, x: Inputs, out_k, out_v, total_k, total_v) -> None:
    """One block of scores; scratch: the gradients so far [keys,D] and [keys,Dv]."""
    batch, n, group = pl.program_id(0), pl.program_id(2), pl.program_id(3)

    def begin() -> None:
        total_k[...] = jnp.zeros_like(total_k)
        total_v[...] = jnp.zeros_like(total_v)

    def add(masked: bool) -> None:
        q, grad = x.q[...], x.grad[...]
        powers, wanted = score_gradient(x, settings, batch, masked)
        total_v[...] += product(powers.astype(grad.dtype), grad, (1, 0))
        total_k[...] += product(wanted.astype(q.dtype), q, (1, 0))

    def end() -> None:
        out_k[...] = (total_k[...] * settings.scale).astype(out_k.dtype)
        out_v[...] = total_v[...].astype(out_v.dtype)

    each_step(place.step(batch, n, steps), begin, add, end, (group == 0, group == groups - 1))


def score_gradient(x: Inputs, settings: Settings, batch: jax.Array, masked: bool) -> tuple[jax.Array, jax.Array]:
    """Probabilities of a block [keys,queries], and the gradient of q k^T * scale there."""
    s, slope = scores(x, settings, batch, masked)
    powers = jnp.exp(s - x.lse[...])
    wanted = powers * (product(x.v[...], x.grad[...], (1, 1)) - x.delta[...])
    return powers, wanted if slope is None else wanted * slope
