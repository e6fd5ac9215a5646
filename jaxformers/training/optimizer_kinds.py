"""How optimisers are put together where optax's own function lacks a mask, or has other numbers than PyTorch's."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from jaxformers.training.masks import BOTTOM
from jaxformers.training.trainable import word

Made = Callable[..., optax.GradientTransformation]
Mask = Callable[[Any], Any] | None


def coupled(make: Callable[[], optax.GradientTransformation], weight_decay: float, mask: Mask):
    """Weight decay as PyTorch adds it to the gradient (L2), before an optimiser that has none of its own."""
    if not weight_decay:
        return make()
    return optax.chain(optax.add_decayed_weights(weight_decay, mask), make())


def adam(learning_rate: Any, weight_decay: float = 0.0, mask: Mask = None, b1=0.9, b2=0.999, eps=1e-8, mu_dtype=None):
    """torch.optim.Adam."""
    return coupled(lambda: optax.adam(learning_rate, b1, b2, eps, mu_dtype=mu_dtype), weight_decay, mask)


def sgd(
    learning_rate: Any,
    weight_decay: float = 0.0,
    mask: Mask = None,
    momentum: float = 0.0,
    nesterov: bool = False,
    accumulator_dtype=None,
):
    """torch.optim.SGD, without dampening."""
    return coupled(lambda: optax.sgd(learning_rate, momentum or None, nesterov, accumulator_dtype), weight_decay, mask)


def rmsprop(
    learning_rate: Any,
    weight_decay: float = 0.0,
    mask: Mask = None,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
):
    """torch.optim.RMSprop: epsilon stands outside the root, and momentum holds steps without their rate."""
    scale = optax.scale_by_stddev if centered else optax.scale_by_rms
    steps = [scale(alpha, eps, eps_in_sqrt=False)]
    steps += [optax.trace(momentum)] if momentum else []
    return coupled(lambda: optax.chain(*steps, optax.scale_by_learning_rate(learning_rate)), weight_decay, mask)


def adagrad(
    learning_rate: Any,
    weight_decay: float = 0.0,
    mask: Mask = None,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
):
    """torch.optim.Adagrad, without a decay of its rate."""
    return coupled(lambda: optax.adagrad(learning_rate, initial_accumulator_value, eps), weight_decay, mask)


def adafactor(
    learning_rate: Any,
    weight_decay: float = 0.0,
    mask: Mask = None,
    eps: tuple[float, float] = (1e-30, 1e-3),
    clip_threshold: float = 1.0,
    decay_rate: float = -0.8,
    beta1: float | None = None,
    scale_parameter: bool = False,
    relative_step: bool = False,
    mu_dtype=None,
):
    """transformers.Adafactor with the Trainer's settings: an outer learning rate, all matrices factored.

    relative_step: the learning rate times min(0.01, 1 / sqrt(step)).
    """
    steps = [
        optax.scale_by_factored_rms(decay_rate=-decay_rate, min_dim_size_to_factor=1, epsilon=eps[0]),
        optax.clip_by_block_rms(clip_threshold),
    ]
    sized = [optax.scale_by_param_block_rms(eps[1])] if scale_parameter else []
    rated = [optax.scale_by_schedule(relative)] if relative_step else []
    rated += [optax.scale_by_learning_rate(learning_rate)]
    if beta1 is None:
        return optax.chain(*steps, optax.add_decayed_weights(weight_decay, mask), *sized, *rated)
    # The average is of updates with their rate; what decays is taken off beside it.
    moved = optax.chain(*steps, *sized, *rated, optax.ema(beta1, debias=False, accumulator_dtype=mu_dtype))
    return beside(moved, optax.chain(optax.add_decayed_weights(weight_decay, mask), *sized, *rated))


def relative(count: jax.Array) -> jax.Array:
    """Adafactor's step size of its own. Source: arXiv:1804.04235."""
    return jnp.minimum(1e-2, jax.lax.rsqrt(count + 1.0))


def beside(main: optax.GradientTransformation, decay: optax.GradientTransformation):
    """The sum of a transformation's updates and of another's for a gradient of zero."""

    def init(params: Any) -> tuple[Any, Any]:
        return main.init(params), decay.init(params)

    def update(updates: Any, state: tuple[Any, Any], params: Any = None) -> tuple[Any, Any]:
        moved, first = main.update(updates, state[0], params)
        nothing = jax.tree.map(jnp.zeros_like, updates)
        taken, second = decay.update(nothing, state[1], params)
        return jax.tree.map(jnp.add, moved, taken), (first, second)

    return optax.GradientTransformation(init, update)


def muon(
    learning_rate: Any,
    weight_decay: float = 0.0,
    mask: Mask = None,
    beta: float = 0.95,
    ns_steps: int = 5,
    nesterov: bool = True,
    preconditioning: str = "frobenius",
    consistent_rms: float | None = None,
    mu_dtype=None,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    adam_learning_rate: float | None = None,
):
    """Muon for the matrices between embeddings and head, AdamW (b1, b2) for all other leaves. Source: optax.contrib.

    consistent_rms: 0.2 makes Muon's updates as large as AdamW's, so that one learning rate suits both.
    """
    matrices = optax.contrib.muon(
        learning_rate,
        beta=beta,
        eps=eps,
        ns_steps=ns_steps,
        nesterov=nesterov,
        preconditioning=preconditioning,  # type: ignore[arg-type]
        consistent_rms=consistent_rms,
        mu_dtype=mu_dtype,
        weight_decay=weight_decay,
        weight_decay_mask=mask,
        muon_weight_dimension_numbers=matrix_axes,
    )
    rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    others = optax.adamw(rate, b1, b2, eps, weight_decay=weight_decay, mask=mask)

    def labels(tree: Any) -> Any:
        return jax.tree.map(lambda axes: "muon" if axes else "adam", matrix_axes(tree), is_leaf=is_axes)

    return optax.partition({"muon": matrices, "adam": others}, labels)


def is_axes(x: Any) -> bool:
    """Whether this is what `axes_of` returns, and no part of a tree."""
    return isinstance(x, MuonDimensionNumbers) or x == ()


def matrix_axes(tree: Any) -> Any:
    """Which axes of each leaf are inputs and outputs, for Muon."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: axes_of(path, leaf.ndim), tree)


def axes_of(path: tuple, ndim: int) -> tuple:
    """A matrix's axes: ours are weights [out, in] and kernels [in, out], of experts [E, in, out]; () for no matrix."""
    words = [word(key) for key in path]
    hidden = not (BOTTOM | {"head"}) & set(words)
    if hidden and words[-1] == "weight" and ndim == 2:
        return MuonDimensionNumbers(reduction_axis=1, output_axis=0)
    if hidden and words[-1] == "kernel" and (ndim == 2 or ndim == 3 and "experts" in words):
        return MuonDimensionNumbers(reduction_axis=ndim - 2, output_axis=ndim - 1)
    return ()


def schedule_free_adamw(
    learning_rate: Any,
    weight_decay: float = 0.0,
    mask: Mask = None,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_lr_power: float = 2.0,
):
    """optax.contrib.schedule_free_adamw with a mask; evaluate `evaluation_model(state)`. Source: arXiv:2405.15682."""
    moments = optax.scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True)
    decayed = optax.add_decayed_weights(weight_decay, mask)
    base = optax.chain(moments, decayed, optax.scale_by_learning_rate(learning_rate))
    return optax.contrib.schedule_free(base, learning_rate, b1, weight_lr_power)


def schedule_free_sgd(
    learning_rate: Any, weight_decay: float = 0.0, mask: Mask = None, b1: float = 0.9, weight_lr_power: float = 2.0
):
    """optax.contrib.schedule_free_sgd with a mask; evaluate `evaluation_model(state)`."""
    decayed = optax.add_decayed_weights(weight_decay, mask)
    base = optax.chain(decayed, optax.scale_by_learning_rate(learning_rate))
    return optax.contrib.schedule_free(base, learning_rate, b1, weight_lr_power)


KINDS: dict[str, Made] = {
    made.__name__: made
    for made in (adam, sgd, rmsprop, adagrad, adafactor, muon, schedule_free_adamw, schedule_free_sgd)
}
