"""How losses run a model: with dropout when there is a key, without the arrays that only the loss reads."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax

from jaxformers.core.errors import DataError
from jaxformers.core.sharding import use_mesh
from jaxformers.hub.model import Model
from jaxformers.training.losses.output import Batch


def run(model: Model, batch: Batch, labels: tuple[str, ...], key: jax.Array | None, **options: Any) -> Any:
    """The model's output on the batch without its `labels`; options are further arguments of the model."""
    inputs = {name: value for name, value in batch.items() if name not in labels}
    if key is not None:
        options["train"] = True
    return model(**inputs, **options, key=key)


def placed(model: Model) -> AbstractContextManager:
    """Within it, what a loss computes itself is spread as the model is."""
    return nullcontext() if model.mesh is None else use_mesh(model.mesh, model.rules)


def labels_of(batch: Batch, *names: str) -> jax.Array:
    """The first of the named arrays that the batch has. Raises DataError that names what there is."""
    for name in names:
        if name in batch:
            return batch[name]
    raise DataError(f"the loss needs {' or '.join(names)} in the batch; it has {', '.join(sorted(batch)) or 'nothing'}")


def shaped(labels: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Labels in the shape of what they are compared with. Raises DataError where they are more or fewer."""
    if labels.size != math.prod(shape):
        raise DataError(f"labels have shape {tuple(labels.shape)}; the model's output needs {tuple(shape)}")
    return labels.reshape(shape)
