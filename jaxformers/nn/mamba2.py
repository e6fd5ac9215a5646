"""Mamba-2: a state-space mixer whose heads each have one decay, so that chunks are matrix products.

Source: arXiv:2405.21060.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.core.sharding import constrain
from jaxformers.core.state import SsmState
from jaxformers.nn.linear import Linear
from jaxformers.nn.param import ONES, ZEROS, param
from jaxformers.nn.recurrent import CausalConv, hide_padding
from jaxformers.ops.recurrence import state_space_dual


class GatedGroupNorm(nn.Module):
    """x silu(gate) / rms(its group) * scale."""

    groups: int
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, gate: jax.Array) -> jax.Array:
        scale = param(self, "scale", ONES, (x.shape[-1],), ("mlp",))
        h = x.astype(jnp.float32) * jax.nn.silu(gate.astype(jnp.float32))
        h = h.reshape(*x.shape[:-1], self.groups, -1)
        h = h * jax.lax.rsqrt(jnp.mean(jnp.square(h), axis=-1, keepdims=True) + self.eps)
        return h.reshape(x.shape) * scale.astype(jnp.float32)


class Mamba2Mixer(nn.Module):
    """out(norm(scan(act(conv(x))), gate)) with heads of `head_dim` channels; groups of heads share b and c."""

    heads: int
    head_dim: int
    states: int
    groups: int
    kernel: int = 4
    act: Callable = jax.nn.silu
    bias: bool = False
    conv_bias: bool = True
    eps: float = 1e-5
    chunk: int = 256
    limits: tuple[float, float] = (0.0, float("inf"))  # of the step's length

    def init_state(self, batch: int, length: int, dtype) -> SsmState:
        """Nothing seen yet; the size does not depend on the length."""
        width = self.heads * self.head_dim + 2 * self.groups * self.states
        conv = jnp.zeros((batch, self.kernel - 1, width), dtype)
        return SsmState(conv, jnp.zeros((batch, self.heads, self.head_dim, self.states), jnp.float32))

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state: SsmState | None = None):
        batch, length = x.shape[:2]
        width, shared = self.heads * self.head_dim, self.groups * self.states
        total = 2 * (width + shared) + self.heads
        projected = Linear(total, self.bias, ("embed", "mlp"), name="in_proj")(hide_padding(x, ctx))
        projected = constrain(projected, "batch", None, "mlp")  # a recurrence goes through all tokens in order
        gate, h, dt = jnp.split(projected, [width, 2 * (width + shared)], axis=-1)
        h, conv = CausalConv(self.kernel, self.conv_bias, name="conv1d")(h, None if state is None else state.conv)
        h = hide_padding(self.act(h).astype(x.dtype), ctx)
        h, b, c = jnp.split(h, [width, width + shared], axis=-1)
        h = h.reshape(batch, length, self.heads, self.head_dim)
        b, c = (z.reshape(batch, length, self.groups, self.states) for z in (b, c))

        def by_head(name: str, init: Callable) -> jax.Array:
            return param(self, name, init, (self.heads,), ("mlp",)).astype(jnp.float32)

        dt = jax.nn.softplus(dt.astype(jnp.float32) + by_head("dt_bias", ZEROS))
        dt = jnp.clip(dt, *self.limits)
        before = self.init_state(batch, length, x.dtype).hidden if state is None else state.hidden
        y, hidden = state_space_dual(h, dt, -jnp.exp(by_head("A_log", ZEROS)), b, c, before, size=self.chunk)
        y = y + h.astype(jnp.float32) * by_head("D", ONES)[:, None]
        y = GatedGroupNorm(self.groups, self.eps, name="norm")(y.reshape(batch, length, width), gate)
        out = Linear(x.shape[-1], self.bias, ("mlp", "embed"), name="out_proj")(y.astype(x.dtype))
        return out, None if state is None else SsmState(conv.astype(state.conv.dtype), hidden), {}
