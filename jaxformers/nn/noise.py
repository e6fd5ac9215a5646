"""NEFTune: uniform noise on the embeddings of tokens while a model trains."""

import dataclasses
from typing import Any

import jax
from flax import linen as nn

from jaxformers.nn.embed import Embed, ScaledEmbed

TOKENS = ("vocab", "embed")  # the axes of a table of tokens; tables of positions have no vocabulary


class NoisyEmbed(Embed):
    """An Embed whose rows are moved by up to alpha / sqrt(tokens * width) where there is a key for dropout.

    Source: arXiv 2310.05914; the noise is transformers'.
    """

    alpha: float = 5.0

    def __call__(self, ids: jax.Array) -> jax.Array:
        return noisy(self, super().__call__(ids), self.alpha)


class NoisyScaledEmbed(ScaledEmbed):
    """A ScaledEmbed with the same noise, after the scale."""

    alpha: float = 5.0

    def __call__(self, ids: jax.Array) -> jax.Array:
        return noisy(self, super().__call__(ids), self.alpha)


def noisy(module: nn.Module, x: jax.Array, alpha: float) -> jax.Array:
    """x [B,T,D] with noise; as it is in evaluation, where there is no key."""
    if not module.has_rng("dropout"):
        return x
    reach = alpha / (x.shape[-2] * x.shape[-1]) ** 0.5
    return x + jax.random.uniform(module.make_rng("dropout"), x.shape, x.dtype, -reach, reach)


def with_noise(module: Any, alpha: float) -> Any:
    """The same module with noise on its tables of tokens; parameters keep their names. Raises ValueError for none."""
    made: dict[int, Any] = {}
    changed = replace_tables(module, alpha, made)
    if not made:
        raise ValueError(f"{type(module).__name__} has no table of tokens to add noise to: neftune is for text models")
    return changed


def replace_tables(module: Any, alpha: float, made: dict[int, Any]) -> Any:
    """Go through a module's fields; `made` keeps a table that several share one."""
    if isinstance(module, tuple):
        items = tuple(replace_tables(m, alpha, made) for m in module)
        return module if all(a is b for a, b in zip(items, module, strict=True)) else items
    if not isinstance(module, nn.Module):
        return module
    fields = {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in ("parent", "name")}
    if type(module) in (Embed, ScaledEmbed) and module.axes == TOKENS:
        kind = NoisyScaledEmbed if isinstance(module, ScaledEmbed) else NoisyEmbed
        return made.setdefault(id(module), kind(**fields, alpha=alpha, name=module.name))
    new = {name: replace_tables(value, alpha, made) for name, value in fields.items()}
    changed = {name: value for name, value in new.items() if value is not fields[name]}
    return module.clone(**changed) if changed else module
