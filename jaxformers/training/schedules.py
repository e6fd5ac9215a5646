"""Learning rates by name: transformers' schedules with its values, and every schedule of optax."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxformers.core.errors import ConfigError
from jaxformers.training.plateau import ReduceOnPlateau

Schedule = Callable[[Any], jax.Array]
# A factor of the peak: of the step, the warm-up steps and all steps.
Factor = Callable[..., jax.Array]


def schedule(
    name: str, peak: float, *, steps: int | None = None, warmup_steps: int = 0, **options: Any
) -> Schedule | ReduceOnPlateau:
    """The learning rate as a function of the step, by transformers' name or by that of an optax schedule.

    peak: the rate at the end of the warm-up. steps: optimiser steps of the whole run, where the schedule ends.
    options: `lr_scheduler_kwargs` under transformers' names (`num_cycles`, `min_lr`, ...), or optax's own arguments.
    "reduce_lr_on_plateau" gives an object that is told a metric after each evaluation. Raises ConfigError for names
    and options that are not understood.
    """
    name = str(getattr(name, "value", name))
    if name == "reduce_lr_on_plateau":
        return checked(ReduceOnPlateau, name, peak=peak, **options)
    if name in FACTORS:
        return from_factor(name, peak, steps, warmup_steps, options)
    if (made := optax_schedule(name)) is not None:
        return checked(made, name, **optax_arguments(made, peak, steps, warmup_steps) | options)
    known = ", ".join([*FACTORS, "reduce_lr_on_plateau", *optax_names()])
    raise ConfigError(f"no schedule is called {name!r}; there are {known}")


def from_factor(name: str, peak: float, steps: int | None, warmup_steps: int, options: dict[str, Any]) -> Schedule:
    """One of transformers' schedules."""
    factor = FACTORS[name]
    taken = inspect.signature(factor).parameters
    if "steps" in taken and steps is None and options.get("num_stable_steps") is None:
        raise ConfigError(f"the schedule {name!r} ends with the run: pass steps=")
    settings = dict(options)
    if "min_lr_rate" in taken:
        settings = with_rate(name, peak, settings)
    if "end" in taken:
        settings["end"] = settings.pop("lr_end", 1e-7) / peak
        if settings["end"] >= 1:
            raise ConfigError(f"lr_end ({settings['end'] * peak}) must be below the learning rate ({peak})")
    settings |= {k: v for k, v in {"steps": steps, "warmup": warmup_steps}.items() if k in taken}
    try:
        bound = inspect.signature(factor).bind(0, **settings)
    except TypeError as error:
        raise ConfigError(f"the schedule {name!r}: {error}; it takes {', '.join(list(taken)[1:])}") from None
    bound.apply_defaults()
    arguments = {k: v for k, v in bound.arguments.items() if k != "step"}

    def rate(step: Any) -> jax.Array:
        return peak * factor(jnp.asarray(step, jnp.float32), **arguments)

    return rate


def with_rate(name: str, peak: float, options: dict[str, Any]) -> dict[str, Any]:
    """`min_lr` as a share of the peak; exactly one of both must be given."""
    options = dict(options)
    floor, rate = options.pop("min_lr", None), options.pop("min_lr_rate", None)
    if (floor is None) == (rate is None):
        raise ConfigError(f"the schedule {name!r} needs min_lr or min_lr_rate, and not both")
    return {**options, "min_lr_rate": floor / peak if rate is None else rate}


# transformers' lambdas (transformers/optimization.py), each a factor of the peak.


def rising(step: Any, warmup: int) -> jax.Array:
    """0 at the first step, 1 after the warm-up."""
    return step / max(1, warmup)


def passed(step: Any, warmup: int, steps: int) -> jax.Array:
    """How much of what follows the warm-up is done; 1 at the end."""
    return (step - warmup) / max(1, steps - warmup)


def wave(progress: Any) -> jax.Array:
    """Half a cosine: 1 at 0, 0 at 1."""
    return 0.5 * (1.0 + jnp.cos(math.pi * progress))


def constant(step: Any) -> jax.Array:
    return jnp.ones_like(step)


def constant_with_warmup(step: Any, warmup: int) -> jax.Array:
    return jnp.where(step < warmup, rising(step, warmup), 1.0)


def linear(step: Any, warmup: int, steps: int) -> jax.Array:
    falling = jnp.maximum(0.0, (steps - step) / max(1, steps - warmup))
    return jnp.where(step < warmup, rising(step, warmup), falling)


def cosine(step: Any, warmup: int, steps: int, num_cycles: float = 0.5) -> jax.Array:
    return cosine_with_min_lr(step, warmup, steps, 0.0, num_cycles)


def cosine_with_min_lr(step: Any, warmup: int, steps: int, min_lr_rate: float, num_cycles: float = 0.5) -> jax.Array:
    falling = wave(2.0 * num_cycles * passed(step, warmup, steps)) * (1 - min_lr_rate) + min_lr_rate
    return jnp.where(step < warmup, rising(step, warmup), jnp.maximum(0.0, falling))


def cosine_warmup_with_min_lr(
    step: Any,
    warmup: int,
    steps: int,
    min_lr_rate: float,
    num_cycles: float = 0.5,
    warmup_lr_rate: float | None = None,
) -> jax.Array:
    start = warmup_lr_rate
    rise = (step + 1) / max(1, warmup) if start is None else start + (1 - start) * step / max(1, warmup - 1)
    falling = wave(2.0 * num_cycles * (step - warmup + 1) / max(1, steps - warmup)) * (1 - min_lr_rate) + min_lr_rate
    return jnp.where(step < warmup, rise, jnp.maximum(0.0, falling))


def cosine_with_restarts(step: Any, warmup: int, steps: int, num_cycles: int = 1) -> jax.Array:
    progress = passed(step, warmup, steps)
    # The product is taken before the division: in float32 the other order can miss the restart.
    turn = (num_cycles * (step - warmup) / max(1, steps - warmup)) % 1.0
    falling = jnp.where(progress >= 1.0, 0.0, wave(turn))
    return jnp.where(step < warmup, rising(step, warmup), falling)


def polynomial(step: Any, warmup: int, steps: int, end: float, power: float = 1.0) -> jax.Array:
    left = 1.0 - passed(step, warmup, steps)
    falling = jnp.where(step > steps, end, (1.0 - end) * jnp.maximum(left, 0.0) ** power + end)
    return jnp.where(step < warmup, rising(step, warmup), falling)


def inverse_sqrt(step: Any, warmup: int, timescale: int | None = None) -> jax.Array:
    scale = timescale or warmup or 10_000
    falling = jax.lax.rsqrt(jnp.maximum(step + (scale - warmup), 1e-9) / scale)
    return jnp.where(step < warmup, rising(step, warmup), falling)


SHAPES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "linear": lambda left: left,
    "cosine": lambda left: 0.5 * (1.0 - jnp.cos(math.pi * left)),
    "1-sqrt": lambda left: 1.0 - jnp.sqrt(jnp.maximum(1.0 - left, 0.0)),
}


def warmup_stable_decay(
    step: Any,
    warmup: int,
    num_decay_steps: int,
    steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
) -> jax.Array:
    for kind in (warmup_type, decay_type):
        if kind not in SHAPES:
            raise ConfigError(f"warmup_type and decay_type are one of {', '.join(SHAPES)}; found {kind!r}")
    stable = (steps or 0) - warmup - num_decay_steps if num_stable_steps is None else num_stable_steps
    done = (step - warmup - stable) / max(1, num_decay_steps)
    fall = wave(2.0 * num_cycles * done) if decay_type == "cosine" else SHAPES[decay_type](1.0 - done)
    rise = SHAPES[warmup_type](rising(step, warmup)) * (1.0 - min_lr_ratio) + min_lr_ratio
    fall = jnp.maximum(0.0, fall * (1.0 - min_lr_ratio) + min_lr_ratio)
    after = jnp.where(done < 0, 1.0, jnp.where(done < 1, fall, min_lr_ratio))
    return jnp.where(step < warmup, rise, after)


FACTORS: dict[str, Factor] = {
    f.__name__: f
    for f in (
        linear,
        cosine,
        cosine_with_restarts,
        polynomial,
        constant,
        constant_with_warmup,
        inverse_sqrt,
        cosine_with_min_lr,
        cosine_warmup_with_min_lr,
        warmup_stable_decay,
    )
}

# optax's


def optax_names() -> list[str]:
    """Every schedule of optax, under its own name."""
    functions = [name for name, f in vars(optax.schedules).items() if inspect.isfunction(f)]
    return [n for n in functions if n.endswith("_schedule") or n == "exponential_decay"]


def optax_schedule(name: str) -> Callable[..., Schedule] | None:
    """optax's function of this name, which may leave out its ending `_schedule`."""
    found = next((n for n in (name, f"{name}_schedule") if n in optax_names()), None)
    return None if found is None else getattr(optax.schedules, found)


def optax_arguments(made: Callable, peak: float, steps: int | None, warmup_steps: int) -> dict[str, Any]:
    """Ours under optax's names, where the function has such arguments."""
    taken = inspect.signature(made).parameters
    out: dict[str, Any] = {}
    target = next((n for n in ("peak_value", "value", "init_value") if n in taken), None)
    if target is not None:
        out[target] = peak
    if target == "peak_value" and "init_value" in taken:
        out["init_value"] = 0.0
    if "warmup_steps" in taken:
        out["warmup_steps"] = warmup_steps
    ends = next((n for n in ("decay_steps", "transition_steps") if n in taken), None)
    if ends is not None and steps is not None:
        out[ends] = steps
    return out


def checked(made: Callable, name: str, **arguments: Any) -> Any:
    """Call a constructor; what it does not take, or lacks, is a ConfigError that lists what it takes."""
    try:
        inspect.signature(made).bind(**arguments)
    except TypeError as error:
        taken = ", ".join(inspect.signature(made).parameters)
        raise ConfigError(f"the schedule {name!r}: {error}; it takes {taken}") from None
    return made(**arguments)
