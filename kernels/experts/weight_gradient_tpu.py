"""The gradient of experts' kernels on TPUs: x^T grad over each expert's own rows, which lie one expert after another.

XLA's own `ragged_dot` computes this by masking: as many whole products as there are experts. Here each block of rows is
multiplied once, or once for each expert that has rows in it.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxformers.kernels.attention.blocks import fit


@dataclass(frozen=True)
class Settings:
    """What is fixed when the kernel is compiled: rows, inputs and outputs of a block."""

    rows: int = 512
    inputs: int = 512
    outputs: int = 1024
    interpret: Any = False  # True or pltpu.InterpretParams: run without a TPU


class Steps(NamedTuple):
    """A walk over the blocks of rows, expert by expert; one without rows has a single step, which gives zeros."""

    expert: jax.Array  # Int [steps]
    block: jax.Array  # Int [steps]
    begin: jax.Array  # Int [E], the first row of each expert
    end: jax.Array  # Int [E]
    count: jax.Array  # Int [1], steps there are; those after them do nothing


def weight_gradient(x: jax.Array, grad: jax.Array, sizes: jax.Array, settings: Settings, dtype: Any) -> jax.Array:
    """[E,in,out] from x [M,in], grad [M,out] and each expert's number of rows, Int [E]; later rows are nobody's."""
    (rows, inputs), outputs = x.shape, grad.shape[1]
    block, whole = fit(rows, settings.rows)
    (k, all_k), (n, all_n) = fit(inputs, settings.inputs), fit(outputs, settings.outputs)
    x = jnp.pad(x, ((0, whole - rows), (0, all_k - inputs)))
    grad = jnp.pad(grad, ((0, whole - rows), (0, all_n - outputs)))
    steps = walk(sizes.astype(jnp.int32), whole // block, block)
    out = pl.pallas_call(
        partial(kernel, block),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(all_k // k, all_n // n, steps.expert.size),
            in_specs=[
                pl.BlockSpec((block, k), lambda i, j, s, steps: (steps.block[s], i)),
                pl.BlockSpec((block, n), lambda i, j, s, steps: (steps.block[s], j)),
            ],
            out_specs=pl.BlockSpec((None, k, n), lambda i, j, s, steps: (steps.expert[s], i, j)),
            scratch_shapes=[pltpu.VMEM((k, n), jnp.float32)],
        ),
        out_shape=jax.ShapeDtypeStruct((sizes.size, all_k, all_n), dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=settings.interpret,
        name="jaxformers_expert_gradient",
    )(steps, x, grad)
    return out[:, :inputs, :outputs]


def walk(sizes: jax.Array, blocks: int, block: int) -> Steps:
    """The steps for experts of these numbers of rows."""
    end = jnp.cumsum(sizes)
    begin = end - sizes
    first = jnp.minimum(begin // block, blocks - 1)
    spans = jnp.where(sizes > 0, -(-end // block) - first, 1)
    last = jnp.cumsum(spans)
    step = jnp.arange(blocks + sizes.size, dtype=jnp.int32)
    now = jnp.minimum(step, last[-1] - 1)  # those that are too many stay where the last one was
    expert = jnp.searchsorted(last, now, side="right").astype(jnp.int32)
    at = first[expert] + now - (last - spans)[expert]
    return Steps(expert, at.astype(jnp.int32), begin, end, last[-1:])


def kernel(block: int, steps: Steps, x, grad, out, total) -> None:
    """One block of rows of one expert. Scratch: the sum so far [in,out]."""
    step = pl.program_id(2)
    expert, final = steps.expert[step], pl.num_programs(2) - 1
    row = jax.lax.broadcasted_iota(jnp.int32, (block, 1), 0) + steps.block[step] * block
    own = (row >= steps.begin[expert]) & (row < steps.end[expert])

    @pl.when((step == 0) | (steps.expert[jnp.maximum(step - 1, 0)] != expert))
    def begin() -> None:
        total[...] = jnp.zeros_like(total)

    @pl.when(step < steps.count[0])
    def add() -> None:
        # Both are hidden: what lies in rows of nobody may be anything.
        a, b = (jnp.where(own, z[...], jnp.zeros_like(z)) for z in (x, grad))
        dims = (((0,), (0,)), ((), ()))
        precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
        total[...] += jax.lax.dot_general(a, b, dims, precision, preferred_element_type=jnp.float32)

    @pl.when((step == final) | (steps.expert[jnp.minimum(step + 1, final)] != expert))
    def end() -> None:
        out[...] = total[...].astype(out.dtype)
