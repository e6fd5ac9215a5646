"""Gradients of a loss's sum: over one batch, or over micro-batches one after another with the same result."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.training.losses.output import LossOutput

# gradients(batch, key) -> (gradients of the sum, sums)
Gradients = Callable[[Any, jax.Array], tuple[Any, LossOutput]]


def of_sum(loss: Callable[[Any, Any, jax.Array], LossOutput], tree: Any, scale: jax.Array | None) -> Gradients:
    """The function that gives a batch's gradients by `tree`; `loss` takes the tree, a batch and a key.

    scale: of float16. It multiplies the mean, not the sum, which would overflow sooner the more tokens there are.
    """

    def scaled(tree: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, LossOutput]:
        out = loss(tree, batch, key)
        return out.total if scale is None else out.total * (scale / whole(out.weight)), out

    def gradients(batch: Any, key: jax.Array) -> tuple[Any, LossOutput]:
        found, out = jax.grad(scaled, has_aux=True)(tree, batch, key)
        if scale is None:
            return found, out
        return jax.tree.map(lambda g: g * (whole(out.weight) / scale), found), out

    return gradients


def whole(weight: jax.Array) -> jax.Array:
    """A weight to divide by: 1 where nothing counts, so that such a batch gives zeros."""
    return jnp.where(weight > 0, weight, 1.0)


def accumulated(gradients: Gradients, batch: Any, key: jax.Array, count: int, start: Callable, spread: Callable):
    """Gradients and sums over `count` micro-batches: number i takes rows i, i + count, ... of the batch.

    start(batch, key): zeros to add to. spread: places micro-batches [count, rows, ...] on the mesh.
    """
    if count == 1:
        return gradients(batch, jax.random.fold_in(key, 0))
    rows = {name: value for name, value in batch.items() if value.ndim}
    same = {name: value for name, value in batch.items() if not value.ndim}
    parts = spread({name: divided(name, value, count) for name, value in rows.items()})

    def one(carry: tuple[Any, LossOutput], numbered: tuple[jax.Array, Any]):
        number, part = numbered
        new = gradients({**part, **same}, jax.random.fold_in(key, number))
        return jax.tree.map(jnp.add, carry, new), None

    first = {name: jax.eval_shape(lambda x: x[0], part) for name, part in parts.items()}
    return jax.lax.scan(one, start({**first, **same}, key), (jnp.arange(count), parts))[0]


def zeros_like(shapes: Any) -> Any:
    """Zeros of these shapes and dtypes."""
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def divided(name: str, value: jax.Array, count: int) -> jax.Array:
    """[n*b, ...] as [n, b, ...]; each device keeps its rows, since neighbours go to different micro-batches."""
    if value.shape[0] % count:
        raise ValueError(
            f"{name!r} has {value.shape[0]} rows, which do not divide into accumulate={count} micro-batches"
        )
    return value.reshape(value.shape[0] // count, count, *value.shape[1:]).swapaxes(0, 1)


def global_norm(tree: Any) -> jax.Array:
    """The norm of all leaves together, in float32."""
    squares = [jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, jnp.float32(0)))
