"""The evaluation step: a loss without dropout, and whatever else of a batch is wanted, jitted."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh

from jaxformers.core.sharding import Rules, use_mesh
from jaxformers.hub.model import Model
from jaxformers.nn.stack import relayout
from jaxformers.training import placement
from jaxformers.training.losses.output import Batch, Loss, LossOutput
from jaxformers.training.planning import prepared

# outputs(model, batch) -> arrays
Outputs = Callable[[Model, Batch], Any]


@dataclass(frozen=True)
class EvalStep:
    """`sums = evaluate(model, batch)`; made by `make_eval_step`."""

    loss: Loss | None
    outputs: Outputs | None
    mesh: Mesh | None
    rules: Rules | None
    dtype: Any

    def __call__(self, model: Model, batch: Batch) -> Any:
        """The sums of the loss; with `outputs` a pair of sums (None without a loss) and outputs."""
        model = prepared(model, self.mesh, self.rules, self.dtype)
        if model.mesh is not None:
            model = model.replace(module=for_any_batch(model.module))
            batch = placement.place_batch(batch, model.mesh, model.rules)
        sums, found = run(self, model, batch)
        return sums if self.outputs is None else (sums, found)


@lru_cache(maxsize=8)
def for_any_batch(module: nn.Module) -> nn.Module:
    """The module without the number of microbatches of a train step, which need not divide other batches."""
    return relayout(module, microbatches=None)


@partial(jax.jit, static_argnums=0)
def run(step: EvalStep, model: Model, batch: Batch) -> tuple[LossOutput | None, Any]:
    """Loss and outputs of one batch."""
    with use_mesh(model.mesh, model.rules):
        sums = None if step.loss is None else step.loss(model, batch, None)
        return sums, None if step.outputs is None else step.outputs(model, batch)


def make_eval_step(
    loss: Loss | None,
    outputs: Outputs | None = None,
    *,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    dtype: Any = None,
) -> EvalStep:
    """Make a jitted evaluation: `evaluate(model, batch) -> LossOutput`, to be added up over batches.

    outputs: a function of model and batch, such as one that returns logits; `evaluate` then returns a pair, and the
    loss may be None. mesh, rules, dtype: instead of the model's own, as in `make_train_step`.
    """
    if loss is None and outputs is None:
        raise ValueError("an evaluation needs a loss, outputs or both")
    return EvalStep(loss, outputs, mesh, rules, dtype)
