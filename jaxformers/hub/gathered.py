"""Leaves back on the host, also those that lie on several processes."""

from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def gathered(leaf: Any, at: tuple[int, ...]) -> np.ndarray:
    """The part of a leaf at some layer and expert; of one that lies on several processes, all must ask together."""
    if getattr(leaf, "is_fully_addressable", True):
        return np.asarray(leaf[at] if at else leaf)
    # First cut, then copied to everyone: a whole stack of layers may not fit one device.
    return np.asarray(replicated(leaf, at, NamedSharding(leaf.sharding.mesh, PartitionSpec())))


@partial(jax.jit, static_argnums=2)
def replicated(leaf: jax.Array, at: tuple[int, ...], everywhere: NamedSharding) -> jax.Array:
    """A part of a leaf on every device."""
    for index in at:
        leaf = jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False)
    return jax.lax.with_sharding_constraint(leaf, everywhere)
