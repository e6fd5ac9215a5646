"""Reading a state whose layers were stacked into one whose layers are not, and the reverse."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxformers.core.errors import CheckpointError
from jaxformers.core.keymap import logical_path
from jaxformers.training.named import Named

Shapes = Mapping[str, tuple[int, ...]]


def layers_of(name: str) -> list[tuple[str, int | None]]:
    """A leaf's layers as (logical name, row); one with no row if it is not stacked."""
    logical, rows = logical_path(tuple(name.split("/")))
    if rows is None:
        return [(logical, None)]
    return [(logical.format(layer), row) for row, layer in enumerate(rows)]


def saved_target(wanted: Named, saved: Shapes) -> Named:
    """How to read the saved leaves so that `to_layout` makes the wanted ones of them, each device its part.

    Raises CheckpointError where the two are not the same model and optimiser under two layouts.
    """
    if wanted.keys() == saved.keys():
        return wanted
    homes = {logical: (leaf, row) for name, leaf in wanted.items() for logical, row in layers_of(name)}
    if differ := homes.keys() ^ {logical for name in saved for logical, _ in layers_of(name)}:
        raise CheckpointError(mismatch(wanted, saved, sorted(differ)))
    out: Named = {}
    for name, shape in saved.items():
        logical, row = layers_of(name)[0]
        leaf, home_row = homes[logical]
        sharding = moved(leaf.sharding, drop=home_row is not None, add=row is not None)
        out[name] = jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)
    return out


def mismatch(wanted: Named, saved: Shapes, differ: list[str]) -> str:
    """What to tell about a checkpoint of another model or optimiser."""
    lacking = [name for name in wanted if any(logical in differ for logical, _ in layers_of(name))]
    spare = [name for name in saved if any(logical in differ for logical, _ in layers_of(name))]
    found = f"the checkpoint lacks {lacking[0]}" if lacking else f"the checkpoint has {spare[0]}, the state does not"
    return (
        f"{found} ({len(lacking)} leaves lacking, {len(spare)} left over): it is of another model, optimiser or set of "
        "options (trainable, ema, float16). Make the state as it was made for the run that wrote the checkpoint."
    )


def moved(sharding: Any, *, drop: bool, add: bool) -> Any:
    """A leaf's sharding with or without the axis of layers before its own."""
    if not isinstance(sharding, NamedSharding) or drop == add:
        return sharding
    spec = PartitionSpec(*sharding.spec[1:]) if drop else PartitionSpec(None, *sharding.spec)
    return NamedSharding(sharding.mesh, spec)


def to_layout(saved: Named, wanted: Named) -> Named:
    """Stack or take apart leaves of layers. Raises CheckpointError where a shape does not fit."""
    if wanted.keys() == saved.keys():
        return saved

    def make(saved: Named) -> Named:
        homes = {logical: (leaf, row) for name, leaf in saved.items() for logical, row in layers_of(name)}
        return {name: one_leaf(name, homes) for name in wanted}

    for name, shape in jax.eval_shape(make, saved).items():
        if shape.shape != wanted[name].shape:
            raise CheckpointError(
                f"{name} needs shape {wanted[name].shape}; the checkpoint's layers give {shape.shape}. The optimiser's "
                "state depends on the layout: make the model with the `scan` that the checkpoint's run had."
            )
    return jax.jit(make, out_shardings={name: leaf.sharding for name, leaf in wanted.items()})(saved)


def one_leaf(name: str, homes: dict[str, tuple[Any, int | None]]) -> Any:
    """One wanted leaf from those that hold its layers."""
    layers = layers_of(name)
    found = [homes[logical] for logical, _ in layers]
    parts = [leaf if row is None else leaf[row] for leaf, row in found]
    return parts[0] if layers[0][1] is None else jnp.stack(parts)
