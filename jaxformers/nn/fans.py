"""Initialisers whose width follows from a kernel's fans. Kernels are [*window, in, out]."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxformers.nn.param import Normal


@dataclass(frozen=True)
class XavierUniform:
    """Uniform in +-sqrt(6 / (fan in + fan out)). copies: how many outputs share one tensor (packed q, k, v)."""

    copies: int = 1

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        window = math.prod(shape[:-2])
        bound = math.sqrt(6.0 / (window * (shape[-2] + self.copies * shape[-1])))
        return jax.random.uniform(key, shape, dtype, -bound, bound)


@dataclass(frozen=True)
class LecunNormal:
    """Normal with deviation sqrt(1 / fan in) / 0.88, as transformers draws it."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        # The factor makes up for a cut at two deviations, but the cut is made at 2.0, where no value is.
        return Normal(math.sqrt(1.0 / math.prod(shape[:-1])) / 0.87962566103423978)(key, shape, dtype)


@dataclass(frozen=True)
class KaimingNormal:
    """Normal with deviation sqrt(2 / fan in)."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return Normal(math.sqrt(2.0 / math.prod(shape[:-1])))(key, shape, dtype)


@dataclass(frozen=True)
class TorchUniform:
    """Uniform in +-1 / sqrt(fan in): what PyTorch gives a layer that no scheme names."""

    fan_in: int

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        bound = self.fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)


@dataclass(frozen=True)
class UnitUniform:
    """Uniform in [0, 1)."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype)
