"""Normalisation, computed in float32 and cast back."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.nn.param import ONES, ZEROS, Constant, param


class RMSNorm(nn.Module):
    """x / rms(x) * (scale + offset). Gemma stores scale - 1, so its offset is 1. Source: arXiv:1910.07467."""

    eps: float = 1e-6
    offset: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = param(self, "scale", Constant(1.0 - self.offset), (x.shape[-1],), (None,))
        h = x.astype(jnp.float32)
        h = h * jax.lax.rsqrt(jnp.mean(jnp.square(h), axis=-1, keepdims=True) + self.eps)
        return (h * (scale.astype(jnp.float32) + self.offset)).astype(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / std * scale + bias. Source: arXiv:1607.06450."""

    eps: float = 1e-5
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = param(self, "scale", ONES, (x.shape[-1],), (None,))
        h = x.astype(jnp.float32)
        h = h - jnp.mean(h, axis=-1, keepdims=True)
        h = h * jax.lax.rsqrt(jnp.mean(jnp.square(h), axis=-1, keepdims=True) + self.eps)
        h = h * scale.astype(jnp.float32)
        if self.bias:
            h = h + param(self, "bias", ZEROS, (x.shape[-1],), (None,)).astype(jnp.float32)
        return h.astype(x.dtype)


class FlatNorm(nn.Module):
    """RMSNorm over all heads at once, for q and k [B,T,H,D] (OLMo 2)."""

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        flat = x.reshape(*x.shape[:-2], -1)
        return RMSNorm(self.eps, name="flat")(flat).reshape(x.shape)
