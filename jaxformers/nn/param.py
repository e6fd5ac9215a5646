"""Parameters with logical axis names, and dropout, for use inside compact modules."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


@dataclass(frozen=True)
class Normal:
    """Independent normal values; a dataclass, because modules that hold it must compare by value."""

    std: float = 0.02

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return jax.random.normal(key, shape, dtype) * jnp.asarray(self.std, dtype)


@dataclass(frozen=True)
class TruncatedNormal:
    """Normal values of which none lies further than `cutoff` deviations from zero."""

    std: float = 0.02
    cutoff: float = 2.0

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        values = jax.random.truncated_normal(key, -self.cutoff, self.cutoff, shape, dtype)
        return values * jnp.asarray(self.std, dtype)


@dataclass(frozen=True)
class PaddedNormal:
    """Independent normal values, and zeros in the row of the padding token (None: there is none)."""

    std: float = 0.02
    pad: int | None = None

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        values = Normal(self.std)(key, shape, dtype)
        return values if self.pad is None else values.at[self.pad].set(0)


@dataclass(frozen=True)
class Uniform:
    """Independent values between -bound and bound."""

    bound: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, jnp.float32, -self.bound, self.bound).astype(dtype)


@dataclass(frozen=True)
class Constant:
    """The same value everywhere."""

    value: float = 0.0

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return jnp.full(shape, self.value, dtype)


@dataclass(frozen=True)
class Sinusoids:
    """Sines of position / 10000 ** (column / width) in even columns, cosines in odd ones. Source: arXiv:1706.03762."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        size, width = shape
        column = np.arange(width)
        angle = np.arange(size)[:, None] / np.power(10000, 2 * (column // 2) / width)
        return jnp.asarray(np.where(column % 2 == 0, np.sin(angle), np.cos(angle)), dtype)


ZEROS, ONES = Constant(0.0), Constant(1.0)


def param(
    module: nn.Module, name: str, init: Callable, shape: tuple[int, ...], axes: tuple[str | None, ...]
) -> jax.Array:
    """A parameter whose axes carry logical names; `axes` has one entry for each axis of `shape`."""
    # Reading the collection directly allows leaves that are no plain arrays, and skips linen's tracing of `init`.
    if module.has_variable("params", name):
        return nn.meta.unbox(module.get_variable("params", name))
    if module.is_mutable_collection("params") and not module.has_rng("params"):
        # Applied without a key, as for its shapes: nothing is drawn, which is most of what tracing would cost.
        value = jnp.zeros(shape)
        module.put_variable("params", name, nn.LogicallyPartitioned(value, axes))
        return value
    return module.param(name, nn.with_logical_partitioning(init, axes), shape)


def dropout(module: nn.Module, x: jax.Array, rate: float, train: bool) -> jax.Array:
    """Zero each value with probability `rate` and scale the others up, when training."""
    if not train or rate == 0.0:
        return x
    keep = jax.random.bernoulli(module.make_rng("dropout"), 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def drop_path(module: nn.Module, x: jax.Array, rate: float, train: bool) -> jax.Array:
    """Zero whole examples with probability `rate` and scale the others up, when training. Source: arXiv:1603.09382."""
    if not train or rate == 0.0:
        return x
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    keep = jax.random.bernoulli(module.make_rng("dropout"), 1.0 - rate, shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))
