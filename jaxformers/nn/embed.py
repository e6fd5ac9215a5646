"""Embeddings: tables that ids look up, and what turns tokens into a stack's input."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.nn.low_rank import declare_tied, low_rank_rows
from jaxformers.nn.param import Normal, dropout, param
from jaxformers.ops.dot import dot_transposed


class Embed(nn.Module):
    """A table [size, width]; `attend` reads it backwards, as tied language-model heads do."""

    size: int
    width: int
    axes: tuple[str | None, str | None] = ("vocab", "embed")
    init: Callable = Normal()

    def setup(self) -> None:
        self.embedding = param(self, "embedding", self.init, (self.size, self.width), self.axes)

    def __call__(self, ids: jax.Array) -> jax.Array:
        return low_rank_rows(self, ids, jnp.take(self.embedding, ids, axis=0), self.axes, self.size)

    def attend(self, x: jax.Array) -> jax.Array:
        """Scores of every entry. x [..., width] -> [..., size]."""
        declare_tied(self)
        return dot_transposed(x, self.embedding)

    def factors(self, x: jax.Array) -> tuple[jax.Array, jax.Array, None]:
        """h, W and b of which the scores are h W^T + b, as `Linear.factors`."""
        return x, self.embedding, None


class ScaledEmbed(Embed):
    """table[ids] * scale; read backwards without the scale (Gemma)."""

    scale: float = 1.0

    def __call__(self, ids: jax.Array) -> jax.Array:
        # The factor is rounded to the table's precision, as the checkpoints were trained.
        return super().__call__(ids) * jnp.asarray(self.scale, self.embedding.dtype)


class LearnedPositions(nn.Module):
    """x + table[position + offset], then dropout. OPT and BART shift by two."""

    size: int
    width: int
    offset: int = 0
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        table = Embed(self.size + self.offset, self.width, axes=(None, "embed"), name="table")
        return dropout(self, x + table(ctx.positions + self.offset), self.dropout, ctx.train)
