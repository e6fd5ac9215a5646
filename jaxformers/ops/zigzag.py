"""Sequences cut over a ring so that under a causal mask each device has as much to do as any other.

Of twice as many pieces as devices, device i takes pieces i and 2 n - 1 - i. Slots travel along and tell where each was.
"""

from typing import Any

import jax
import jax.numpy as jnp

Steps = list[tuple[int, int]]


def zigzag_steps(size: int) -> tuple[Steps, Steps]:
    """Where the first and the second half of each device's sequence go."""

    def to(piece: int) -> int:
        return min(piece, 2 * size - 1 - piece)

    return [(i, to(2 * i)) for i in range(size)], [(i, to(2 * i + 1)) for i in range(size)]


def sequence_axis(x: jax.Array) -> int:
    """[B,H,T,D], [B,T] or [T]."""
    return 2 if x.ndim == 4 else x.ndim - 1


def exchange(x: jax.Array, axis_name: str, steps: tuple[Steps, Steps]) -> jax.Array:
    """Both halves of a device's sequence sent where `steps` say."""
    axis = sequence_axis(x)
    halves = jnp.split(x, 2, axis)
    return jnp.concatenate([jax.lax.ppermute(h, axis_name, s) for h, s in zip(halves, steps, strict=True)], axis)


def to_zigzag(tree: Any, axis_name: str, size: int) -> Any:
    """Everything that has a sequence, in the balanced order."""
    return jax.tree.map(lambda x: exchange(x, axis_name, zigzag_steps(size)), tree)


def from_zigzag(x: jax.Array, axis_name: str, size: int) -> jax.Array:
    """Undo `to_zigzag`."""
    first, second = ([(there, here) for here, there in steps] for steps in zigzag_steps(size))
    return exchange(x, axis_name, (first, second))
