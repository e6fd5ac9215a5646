"""A transform between a backbone and a head: of every token, or of what a text is pooled to."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.outputs import BaseModelOutput
from jaxformers.nn.linear import Linear


def first_token(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The first slot, padding or not."""
    return x[:, 0]


def first_real_token(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The first token that is not padding."""
    if mask is None:
        return x[:, 0]
    at = jnp.argmax(mask, axis=1)
    return jnp.take_along_axis(x, at[:, None, None], axis=1)[:, 0]


def mean_real_token(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The mean over tokens that are not padding."""
    if mask is None:
        return jnp.mean(x, axis=1)
    weights = mask.astype(x.dtype)
    return jnp.sum(x * weights[..., None], axis=1) / jnp.sum(weights, axis=1, keepdims=True)


class Transform(nn.Module):
    """norm(act(dense(x)))."""

    width: int
    act: Callable
    norm: nn.Module
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.act(Linear(self.width, self.bias, ("embed", None), name="dense")(x)))


class TransformedTokens(nn.Module):
    """A backbone whose last hidden state went through a transform."""

    backbone: nn.Module
    transform: nn.Module

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    def __call__(self, input_ids: jax.Array | None = None, **kwargs) -> BaseModelOutput:
        out = self.backbone(input_ids, **kwargs)
        return out.replace(last_hidden_state=self.transform(out.last_hidden_state))


class TransformedPool(nn.Module):
    """A backbone whose pooled output is transform(pool(last hidden state, attention mask))."""

    backbone: nn.Module
    transform: nn.Module
    pool: Callable = first_token

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    def __call__(
        self, input_ids: jax.Array | None = None, attention_mask: jax.Array | None = None, **kwargs
    ) -> BaseModelOutput:
        out = self.backbone(input_ids, attention_mask=attention_mask, **kwargs)
        return out.replace(pooler_output=self.transform(self.pool(out.last_hidden_state, attention_mask)))
