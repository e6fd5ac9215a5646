"""A classifier on one vector that sums a text up: a token of choice or their mean, then a projection."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.nn.linear import Linear
from jaxformers.nn.param import dropout


def first_token(x: jax.Array) -> jax.Array:
    """The first token's vector."""
    return x[:, 0]


def last_token(x: jax.Array) -> jax.Array:
    """The last token's vector, padding counted."""
    return x[:, -1]


def mean_token(x: jax.Array) -> jax.Array:
    """The mean over all tokens, padding counted."""
    return jnp.mean(x, axis=1)


class SummaryHead(nn.Module):
    """out(dropout(act(dense(pick(x))))). width: of the projection `dense`, None for none."""

    labels: int
    pick: Callable = first_token
    width: int | None = None
    act: Callable | None = None
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = self.pick(x)
        if self.width is not None:
            x = Linear(self.width, True, ("embed", None), name="dense")(x)
        if self.act is not None:
            x = self.act(x)
        return Linear(self.labels, True, ("embed", None), name="out")(dropout(self, x, self.dropout, train))
