"""Activations by the names that Hugging Face configs use; all module-level, so that modules compare equal."""

import math

import jax
import jax.numpy as jnp

from jaxformers.core.errors import ConfigError


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """x * Phi(x), exact."""
    h = wide(x)
    return (h * below(h)).astype(x.dtype)


@gelu.defjvp
def gelu_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    """With its derivative Phi(x) + x phi(x), one array to keep; of the plain formula several are kept."""
    (x,), (moved,) = primals, tangents
    h = wide(x)
    share = below(h)
    slope = share + h * jnp.exp(-0.5 * h * h) * (2 * math.pi) ** -0.5
    return (h * share).astype(x.dtype), slope.astype(moved.dtype) * moved


def wide(x: jax.Array) -> jax.Array:
    """x in float32 at least: 1 + erf loses most of bfloat16's digits."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def below(h: jax.Array) -> jax.Array:
    """Phi: the share of a normal distribution below h."""
    return 0.5 * (1.0 + jax.lax.erf(h * 2**-0.5))


def gelu_tanh(x: jax.Array) -> jax.Array:
    """GELU by its tanh approximation."""
    return jax.nn.gelu(x, approximate=True)


def gelu_10(x: jax.Array) -> jax.Array:
    """Exact GELU, clipped to [-10, 10]."""
    return jnp.clip(gelu(x), -10.0, 10.0)


def quick_gelu(x: jax.Array) -> jax.Array:
    """x * sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


def relu2(x: jax.Array) -> jax.Array:
    """relu(x) squared."""
    return jnp.square(jax.nn.relu(x))


def laplace(x: jax.Array) -> jax.Array:
    """Laplace activation of MEGA. Source: arXiv:2209.10655."""
    return 0.5 * (1.0 + jax.lax.erf((x - 0.707107) / (0.282095 * 1.4142135623730951)))


def linear(x: jax.Array) -> jax.Array:
    """x itself."""
    return x


def hard_swish(x: jax.Array) -> jax.Array:
    """x * relu6(x + 3) / 6."""
    return x * jax.nn.relu6(x + 3.0) / 6.0


def sqrt_softplus(x: jax.Array) -> jax.Array:
    """Square root of softplus(x)."""
    return jnp.sqrt(jax.nn.softplus(x))


def leaky_relu(x: jax.Array) -> jax.Array:
    """max(x, 0.01 x)."""
    return jax.nn.leaky_relu(x, 0.01)


def mish(x: jax.Array) -> jax.Array:
    """x * tanh(softplus(x))."""
    return x * jnp.tanh(jax.nn.softplus(x))


def sigmoid(x: jax.Array) -> jax.Array:
    """1 / (1 + exp(-x))."""
    return jax.nn.sigmoid(x)


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_10": gelu_10,
    "gelu_accurate": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_python": gelu,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_python_tanh": gelu_tanh,
    "hardswish": hard_swish,
    "laplace": laplace,
    "leaky_relu": leaky_relu,
    "linear": linear,
    "mish": mish,
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "relu2": relu2,
    "relu6": jax.nn.relu6,
    "sigmoid": sigmoid,
    "silu": jax.nn.silu,
    "sqrtsoftplus": sqrt_softplus,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


def activation(name: str):
    """Look an activation up by its config name. Raises ConfigError for one that is unknown."""
    if name not in ACTIVATIONS:
        raise ConfigError(f"activation {name!r} is unknown; expected one of {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]
