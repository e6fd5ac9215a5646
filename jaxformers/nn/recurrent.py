"""What recurrent mixers share: hidden padding, a causal convolution with memory, and the decoder around them."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.core.outputs import BaseModelOutput
from jaxformers.core.state import Cache
from jaxformers.nn.decoder import Decoder
from jaxformers.nn.param import ONES, ZEROS, Normal, param


def hide_padding(x: jax.Array, ctx: Context) -> jax.Array:
    """Zero the tokens [B,T,...] that the attention mask calls padding, so that no state remembers them."""
    if ctx.mask.keys is None:
        return x
    real = jnp.take(ctx.mask.keys, ctx.slots, axis=1)
    return jnp.where(real[..., None], x, jnp.zeros_like(x))


class CausalConv(nn.Module):
    """Each channel's own convolution over its last `size` inputs; `before` are the size - 1 inputs ahead of x."""

    size: int
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, before: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """x [B,T,C] -> the same shape in float32, and what to remember, [B,size-1,C]."""
        length, width = x.shape[1:]
        kernel = param(self, "kernel", Normal(), (self.size, 1, width), ("conv", None, "mlp")).astype(jnp.float32)
        if before is None:
            before = jnp.zeros((x.shape[0], self.size - 1, width), x.dtype)
        x = jnp.concatenate([before.astype(x.dtype), x], axis=1)
        taps = [x[:, n : n + length].astype(jnp.float32) * kernel[n, 0] for n in range(self.size)]
        y = sum(taps[1:], taps[0])
        if self.bias:
            y = y + param(self, "bias", ZEROS, (width,), ("mlp",)).astype(jnp.float32)
        return y, x[:, length:].astype(before.dtype)


class NarrowRMSNorm(nn.Module):
    """RMSNorm that first rounds its input to the precision of its scale: the residual stream may be wider."""

    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = param(self, "scale", ONES, (x.shape[-1],), (None,))
        h = x.astype(scale.dtype).astype(jnp.float32)
        h = h * jax.lax.rsqrt(jnp.mean(jnp.square(h), axis=-1, keepdims=True) + self.eps)
        return h.astype(scale.dtype) * scale


class Widen(nn.Module):
    """The residual stream in float32, whatever the parameters' precision."""

    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return x.astype(jnp.float32)


class RecurrentDecoder(Decoder):
    """A Decoder whose hidden_states are the layers' outputs and the normed one, without the embedding."""

    def __call__(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        past_key_values: Cache | None = None,
        cache_params: Cache | None = None,
        inputs_embeds: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        train: bool = False,
    ) -> BaseModelOutput:
        """`cache_params` is transformers' name for `past_key_values`. Positions mean nothing to a recurrence."""
        out = super().__call__(
            input_ids,
            attention_mask,
            past_key_values=cache_params if past_key_values is None else past_key_values,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            train=train,
        )
        if out.hidden_states is None:
            return out
        return dataclasses.replace(out, hidden_states=(*out.hidden_states[1:], out.last_hidden_state))
