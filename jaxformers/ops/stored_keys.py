"""Keys and values that a cache keeps in a form of its own: for attentions that read arrays, and for their gradients."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax

from jaxformers.core.stored import dense


def on_arrays(call: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The same attention, which gets keys and values as arrays whatever the cache keeps."""

    @wraps(call)
    def attend(q: jax.Array, k: Any, v: Any, mask: Any, **given: Any) -> jax.Array:
        return call(q, *(x if isinstance(x, jax.Array) else dense(x, q.dtype) for x in (k, v)), mask, **given)

    return attend


def with_gradients_of(plain: Callable[..., jax.Array], call: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`call` for the value, and the plain form for gradients, which few ask of an attention to a cache."""

    @wraps(call)
    def attend(q: jax.Array, k: Any, v: Any, mask: Any, *, scale: float, softcap: float | None = None, **given: Any):
        def of(which: Callable[..., jax.Array], arrays: tuple) -> jax.Array:
            *first, more = arrays
            return which(*first, scale=scale, softcap=softcap, **more)

        run = jax.custom_vjp(lambda arrays: of(call, arrays))

        def backward(arrays: tuple, grad: jax.Array) -> tuple:
            return jax.vjp(lambda arrays: of(plain, arrays), arrays)[1](grad)

        run.defvjp(lambda arrays: (of(call, arrays), arrays), backward)
        return run((q, k, v, mask, given))

    return attend
