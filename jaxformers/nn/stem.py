"""Stem: what happens between the word table and the first layer of a decoder."""

import jax
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.nn.param import dropout


class Stem(nn.Module):
    """dropout(norm(positions(project(x)))); parts that a family lacks are None."""

    project: nn.Module | None = None  # from the embedding's width to the layers'
    positions: nn.Module | None = None  # (x, ctx) -> x
    norm: nn.Module | None = None
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        x = x if self.project is None else self.project(x)
        x = x if self.positions is None else self.positions(x, ctx)
        x = x if self.norm is None else self.norm(x)
        return dropout(self, x, self.dropout, ctx.train)


class ProjectedNorm(nn.Module):
    """project(norm(x)): the end of a decoder whose words are narrower than its layers (OPT-350m)."""

    project: nn.Module
    norm: nn.Module | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.project(x if self.norm is None else self.norm(x))
