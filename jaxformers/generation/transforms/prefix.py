"""Tokens allowed by a function of the caller, which runs on the host at every step."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxformers.core.errors import ConfigError
from jaxformers.core.pytree import dataclass
from jaxformers.generation.seen import Seen
from jaxformers.generation.transforms.arguments import Whole, size, whole

Allowed = Callable[[int, np.ndarray], Sequence[int]]


@dataclass
class PrefixConstrained:
    """Only tokens that the function allows after what was written. Its identity is what jit compares."""

    function: Allowed = struct.field(pytree_node=False)
    num_beams: int = struct.field(pytree_node=False, default=1)
    rows: Whole | None = None

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        rows = scores.shape[0] if self.rows is None else self.rows
        ask = partial(allowed_tokens, self.function, self.num_beams, scores.shape)
        shape = jax.ShapeDtypeStruct(scores.shape, bool)
        allowed = jax.pure_callback(ask, shape, seen.tokens, seen.start, seen.end, rows, vmap_method="sequential")
        mask = jnp.where(allowed, 0.0, -jnp.inf)
        constrained = scores + mask
        # If all beams of an input are impossible already, the constraint holds all the same.
        hopeless = jnp.all(jnp.isneginf(constrained), axis=-1).reshape(-1, self.num_beams).all(-1)
        return jnp.where(jnp.repeat(hopeless, self.num_beams)[:, None], mask, constrained)


def allowed_tokens(
    function: Allowed, beams: int, shape: tuple[int, ...], tokens: Any, start: Any, end: Any, rows: Any
) -> np.ndarray:
    """Bool [B,V]: ask the caller's function, on the host, about each of the caller's rows."""
    written = np.asarray(tokens)[:, int(start) : int(end)]
    allowed = np.ones(shape, bool)
    for row in range(min(int(rows), len(allowed))):
        found = function(row // beams, written[row])
        if len(found) == 0:
            raise ConfigError(
                f"`prefix_allowed_tokens_fn` allowed no token for input {row // beams} after "
                f"{written[row].tolist()}: it has to allow one, such as the end of the text"
            )
        allowed[row] = False
        allowed[row, np.asarray(found)] = True
    return allowed


def prefix_constrained(
    prefix_allowed_tokens_fn: Allowed, num_beams: int = 1, rows: Whole | None = None
) -> PrefixConstrained:
    """Allow only what `prefix_allowed_tokens_fn(input, tokens so far)` returns (arXiv 2010.00904).

    The function gets a numpy array and is called on the host, once for each row and step, in a compiled loop as well.
    `rows` is how many rows are the caller's, beams included; the others are not asked about.
    """
    if not callable(prefix_allowed_tokens_fn):
        raise ConfigError(f"`prefix_allowed_tokens_fn` has to be a function, but is {prefix_allowed_tokens_fn}")
    count = None if rows is None else whole("rows", rows, 0)
    return PrefixConstrained(prefix_allowed_tokens_fn, size("num_beams", num_beams), count)
