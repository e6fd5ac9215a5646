"""Mamba: a selective state-space mixer. Source: arXiv:2312.00752."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.core.sharding import constrain
from jaxformers.core.state import SsmState
from jaxformers.nn.linear import Linear
from jaxformers.nn.low_rank import low_rank
from jaxformers.nn.param import ONES, ZEROS, Normal, param
from jaxformers.nn.recurrent import CausalConv, hide_padding
from jaxformers.ops.dot import dot
from jaxformers.ops.recurrence import selective_scan


class TimeStep(nn.Module):
    """softplus(x W + b), the sum in float32."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = dot(x, param(self, "kernel", Normal(), (x.shape[-1], self.width), (None, "mlp")))
        y = low_rank(self, x, y, (None, "mlp"))
        bias = param(self, "bias", ZEROS, (self.width,), ("mlp",))
        return jax.nn.softplus(y.astype(jnp.float32) + bias.astype(jnp.float32))


@dataclass(frozen=True)
class CountLog:
    """log(1 .. states) for every channel: decays of many speeds to begin with."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[-1] + 1, dtype=jnp.float32)), shape).astype(dtype)


@dataclass(frozen=True)
class HeadLog:
    """log(1 .. heads)."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return jnp.log(jnp.arange(1, shape[0] + 1, dtype=jnp.float32)).astype(dtype)


@dataclass(frozen=True)
class StepBias:
    """Biases whose softplus is spread evenly in its logarithm between `low` and `high`, but not below `floor`."""

    low: float
    high: float
    floor: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        low, high = math.log(self.low), math.log(self.high)
        step = jnp.maximum(jnp.exp(jax.random.uniform(key, shape) * (high - low) + low), self.floor)
        return (step + jnp.log(-jnp.expm1(-step))).astype(dtype)  # the inverse of softplus


class MambaMixer(nn.Module):
    """out(silu(gate) * scan(act(conv(x)))); the step's length and direction depend on the token."""

    width: int
    states: int
    rank: int  # of the step's length
    kernel: int = 4
    act: Callable = jax.nn.silu
    bias: bool = False
    conv_bias: bool = True
    norm: nn.Module | None = None  # a template, copied for the step's length, b and c (Jamba)

    def init_state(self, batch: int, length: int, dtype) -> SsmState:
        """Nothing seen yet; the size does not depend on the length."""
        conv = jnp.zeros((batch, self.kernel - 1, self.width), dtype)
        return SsmState(conv, jnp.zeros((batch, self.width, self.states), jnp.float32))

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state: SsmState | None = None):
        projected = Linear(2 * self.width, self.bias, ("embed", "mlp"), name="in_proj")(hide_padding(x, ctx))
        # A recurrence goes through all tokens in order: each device has them all, and its own channels.
        h, gate = jnp.split(constrain(projected, "batch", None, "mlp"), 2, axis=-1)
        h, conv = CausalConv(self.kernel, self.conv_bias, name="conv1d")(h, None if state is None else state.conv)
        h = hide_padding(self.act(h).astype(x.dtype), ctx)
        steps = Linear(self.rank + 2 * self.states, axes=("mlp", None), name="x_proj")(h)
        dt, b, c = jnp.split(steps, [self.rank, self.rank + self.states], axis=-1)
        if self.norm is not None:
            dt, b, c = (self.norm.copy(name=f"{n}_norm")(z) for n, z in (("dt", dt), ("b", b), ("c", c)))
        a = param(self, "A_log", CountLog(), (self.width, self.states), ("mlp", "state"))
        skip = param(self, "D", ONES, (self.width,), ("mlp",)).astype(jnp.float32)
        before = jnp.zeros((x.shape[0], self.width, self.states)) if state is None else state.hidden
        dt = TimeStep(self.width, name="dt_proj")(dt)
        y, hidden = selective_scan(h, dt, -jnp.exp(a.astype(jnp.float32)), b, c, before)
        y = (y + h.astype(jnp.float32) * skip) * jax.nn.silu(gate.astype(jnp.float32))
        out = Linear(x.shape[-1], self.bias, ("mlp", "embed"), name="out_proj")(y.astype(x.dtype))
        return out, None if state is None else SsmState(conv.astype(state.conv.dtype), hidden), {}
