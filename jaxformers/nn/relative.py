"""Relative position bias: a table of what each head adds for each range of distances."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxformers.nn.embed import Embed


def bucket_table(buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of each distance from 0 to `max_distance`: exact ones first, then ever wider. Int [max_distance + 1].

    A table, because the logarithm of a distance at the edge of two buckets must not depend on the device.
    """
    exact = buckets // 2
    distance = np.arange(max_distance + 1)
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    wide = exact + (ratio / np.float32(math.log(max_distance / exact)) * np.float32(buckets - exact)).astype(np.int64)
    return np.where(distance < exact, distance, np.minimum(wide, buckets - 1)).astype(np.int32)


class RelativeBias(nn.Module):
    """bias[h, t, s] = table[bucket(s - t), h], one for all layers. Source: arXiv:1910.10683."""

    heads: int
    buckets: int = 32
    max_distance: int = 128
    both_ways: bool = True  # half of the buckets are for keys after the query
    table_size: int | None = None  # when the table has more rows than buckets (MPNet)

    @nn.compact
    def __call__(self, q_slots: jax.Array, k_slots: jax.Array) -> jax.Array:
        ahead = k_slots[None, :] - q_slots[:, None]
        buckets = self.buckets // 2 if self.both_ways else self.buckets
        distance = jnp.abs(ahead) if self.both_ways else jnp.maximum(-ahead, 0)
        rows = jnp.asarray(bucket_table(buckets, self.max_distance))[jnp.minimum(distance, self.max_distance)]
        if self.both_ways:
            rows = rows + jnp.where(ahead > 0, buckets, 0)
        values = Embed(self.table_size or self.buckets, self.heads, axes=(None, "heads"), name="table")(rows)
        return values.transpose(2, 0, 1)[None]
