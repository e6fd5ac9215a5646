"""Leaves that no gradient reaches: running statistics, fixed tables, corrections that only choose experts.

A model computes with them and stops their gradients. An optimiser must not touch them: weight decay would.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.keymap import logical_path
from jaxformers.hub.abstract import Path, flatten, unbox, unflatten
from jaxformers.nn.stack import Sample, relayout


@lru_cache(maxsize=64)
def unreached(module: nn.Module) -> frozenset[str]:
    """Logical names, "layers.{}.norm.running_mean", of leaves that outputs depend on and no gradient reaches.

    Of layers that repeat one is traced; nothing is computed.
    """
    sample = relayout(module, scan=True, segment=Sample, remat=None)
    inputs = sample.dummy_inputs()  # type: ignore[attr-defined]
    made = jax.eval_shape(lambda **arrays: sample.apply({}, **arrays, mutable=["params"])[1], **inputs)
    flat = {path: unbox(leaf) for path, leaf in flatten(dict(made["params"])).items()}

    def outputs(params: list[jax.Array]) -> list[jax.Array]:
        tree = unflatten(dict(zip(flat, params, strict=True)))
        found = sample.apply({"params": tree}, **{k: jnp.zeros(v.shape, v.dtype) for k, v in inputs.items()})
        return [x for x in jax.tree.leaves(found) if jnp.issubdtype(x.dtype, jnp.floating)]

    def pulled(params: list[jax.Array], cotangents: list[jax.Array]) -> list[jax.Array]:
        return jax.vjp(outputs, params)[1](cotangents)[0]

    shapes = list(flat.values())
    forward = jax.make_jaxpr(outputs)(shapes).jaxpr
    backward = jax.make_jaxpr(pulled)(shapes, jax.eval_shape(outputs, shapes)).jaxpr
    used = needed(forward)
    reached = dependent(backward, backward.invars[len(shapes) :])
    return frozenset(
        general(path)
        for path, value, gradient in zip(flat, forward.invars, backward.outvars, strict=True)
        if value in used and not (isinstance(gradient, jax.extend.core.Var) and gradient in reached)
    )


def needed(jaxpr: Any) -> set[Any]:
    """The variables that some output may depend on."""
    live = {v for v in jaxpr.outvars if isinstance(v, jax.extend.core.Var)}
    for equation in reversed(jaxpr.eqns):
        if not live.isdisjoint(equation.outvars):
            live.update(v for v in equation.invars if isinstance(v, jax.extend.core.Var))
    return live


def dependent(jaxpr: Any, sources: list[Any]) -> set[Any]:
    """The variables that may depend on `sources`."""
    reached = set(sources)
    for equation in jaxpr.eqns:
        if any(isinstance(v, jax.extend.core.Var) and v in reached for v in equation.invars):
            reached.update(equation.outvars)
    return reached


def general(path: Path) -> str:
    """A leaf's name for whatever layer it is in, in either layout."""
    logical, _ = logical_path(path)
    return ".".join("{}" if word.isdigit() else word for word in logical.split("."))
