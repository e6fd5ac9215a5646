"""Embeddings whose token types are looked up in the word table (GPT-2)."""

import jax

from jaxformers.core.context import Context
from jaxformers.nn.encoder import TextEmbeddings
from jaxformers.nn.param import dropout


class SharedTypeEmbeddings(TextEmbeddings):
    """dropout(words + positions + words of the types); types that are not given add nothing."""

    def __call__(
        self, ids: jax.Array | None, types: jax.Array | None, embeds: jax.Array | None, ctx: Context
    ) -> jax.Array:
        x = self.embed(ids) if embeds is None else embeds
        x = x if self.positions is None else x + self.positions(ctx.positions)
        if types is not None:
            x = x + self.embed(types)
        return dropout(self, x, self.dropout, ctx.train)
