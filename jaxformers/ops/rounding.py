"""Rounding a matrix to a QTensor without calibration: nearest values, and for int4 the scale with the least error."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core.qtensor import STORED, QTensor, pack, span_of

LARGEST = {"int8": 127.0, "int4": 7.0, "fp8": 448.0}  # what the largest weight of a group becomes
LOWEST = {"int8": -127.0, "int4": -8.0, "fp8": -448.0}
SHARES = tuple(1.0 - n / 32 for n in range(13))  # of the largest weight, to which int4 may be clipped


def round_matrix(
    w: jax.Array,
    kind: str,
    group_size: int | None = None,
    *,
    axes: tuple[str | None, ...] = (None, None),
    turned: bool = False,
    dtype: Any = None,
) -> QTensor:
    """Round w [...,out,in], or [...,in,out] if turned; group_size None: one scale for each output.

    axes: the logical names of w's axes. dtype: of the scales and of the matrix that it stands for, by default w's.
    Raises ValueError for sizes that do not divide.
    """
    dtype = jnp.dtype(w.dtype if dtype is None else dtype)
    if turned:
        w, axes = jnp.swapaxes(w, -1, -2), (*axes[:-2], axes[-1], axes[-2])
    group = check_group(w.shape[-1], kind, group_size)
    grouped = w.astype(jnp.float32).reshape(*w.shape[:-1], -1, group)
    scale = choose_scale(grouped, kind, dtype)
    values = nearest(grouped, scale, kind).reshape(w.shape)
    span = span_of(w.shape[-1], group) if kind == "int4" else 0
    values = pack(values, span) if span else values
    return QTensor(values, jnp.swapaxes(scale, -1, -2), kind, dtype, axes, turned, span)


def check_group(inputs: int, kind: str, group_size: int | None) -> int:
    """How many inputs share a scale. Raises ValueError where that is not possible."""
    if kind not in STORED:
        raise ValueError(f"cannot quantise to {kind!r}; expected one of {', '.join(STORED)}")
    group = inputs if group_size is None else group_size
    if group < 1 or inputs % group:
        fit = [size for size in (128, 64, 32, 16) if inputs % size == 0]
        advice = f"group_size={fit[0]}" if fit else "group_size=None, one scale for each output"
        raise ValueError(f"{inputs} inputs do not divide into groups of {group_size}; pass {advice}, or skip it")
    if kind == "int4" and group % 2:
        raise ValueError(f"int4 keeps two numbers in a byte and cannot divide {group} inputs by two; skip it")
    return group


def choose_scale(grouped: jax.Array, kind: str, dtype: Any) -> jax.Array:
    """The scale of each group [...,groups,group], rounded to `dtype`; never zero."""
    largest = jnp.max(jnp.abs(grouped), axis=-1)
    if kind != "int4":
        return usable(largest / LARGEST[kind], dtype)

    def better(best: tuple[jax.Array, jax.Array], share: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        least, kept = best
        scale = usable(largest * share / LARGEST[kind], dtype)
        wrong = grouped - nearest(grouped, scale, kind) * scale.astype(jnp.float32)[..., None]
        error = jnp.sum(wrong * wrong, axis=-1)
        return (jnp.minimum(error, least), jnp.where(error < least, scale, kept)), None

    begin = (jnp.full(largest.shape, jnp.inf), jnp.ones(largest.shape, dtype))
    return jax.lax.scan(better, begin, jnp.array(SHARES, jnp.float32))[0][1]


def usable(scale: jax.Array, dtype: Any) -> jax.Array:
    """The scale in its dtype; one where it would vanish: a group of zeros, or of numbers too small for the dtype."""
    scale = scale.astype(dtype)
    return jnp.where(scale > 0, scale, jnp.ones_like(scale))


def nearest(grouped: jax.Array, scale: jax.Array, kind: str) -> jax.Array:
    """The nearest values of a kind to grouped / scale: int8, or float8_e4m3fn."""
    x = grouped / scale.astype(jnp.float32)[..., None]
    rounded = x if kind == "fp8" else jnp.round(x)
    return jnp.clip(rounded, LOWEST[kind], LARGEST[kind]).astype(STORED["fp8" if kind == "fp8" else "int8"])
