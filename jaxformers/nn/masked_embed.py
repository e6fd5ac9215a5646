"""Text embeddings that are zero at padding."""

import jax
import jax.numpy as jnp

from jaxformers.core.context import Context
from jaxformers.nn.conv_block import hide_padding
from jaxformers.nn.encoder import TextEmbeddings
from jaxformers.nn.param import dropout


class MaskedEmbeddings(TextEmbeddings):
    """dropout(norm(project(words + positions + types))), zero at padding (DeBERTa)."""

    def __call__(
        self, ids: jax.Array | None, types: jax.Array | None, embeds: jax.Array | None, ctx: Context
    ) -> jax.Array:
        x = self.embed(ids) if embeds is None else embeds
        if self.positions is not None:
            x = x + self.positions(ctx.positions)
        if self.types is not None:
            x = x + self.types(jnp.zeros(x.shape[:2], jnp.int32) if types is None else types)
        if self.project is not None:
            x = self.project(x)
        if self.norm is not None:
            x = self.norm(x)
        return dropout(self, hide_padding(x, ctx), self.dropout, ctx.train)
