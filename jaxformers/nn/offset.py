"""A table whose first rows no position reaches."""

import jax

from jaxformers.nn.embed import Embed


class OffsetEmbed(Embed):
    """table[ids + offset]; `size` counts all rows. BART's positions start at row two."""

    offset: int = 2

    def __call__(self, ids: jax.Array) -> jax.Array:
        return super().__call__(ids + self.offset)
