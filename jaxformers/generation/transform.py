"""Logits transforms: scores in, scores out. `chain(temperature(0.7), top_k(50))` is one too, as in optax."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
from flax import struct

from jaxformers.generation.seen import Seen


@runtime_checkable
class LogitsTransform(Protocol):
    """Scores [B,V] float32 and what was seen -> scores [B,V]; a pytree whose leaves may change without recompiling."""

    def __call__(self, scores: jax.Array, seen: Seen, /) -> jax.Array: ...


@struct.dataclass
class Own:
    """The caller's function as a transform. Its identity is what jit compares: define it once, outside loops."""

    function: Callable[[jax.Array, Seen], jax.Array] = struct.field(pytree_node=False)

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        return self.function(scores, seen)


@struct.dataclass
class Chain:
    """One transform after another; the empty chain changes nothing."""

    transforms: tuple[LogitsTransform, ...] = ()

    def __call__(self, scores: jax.Array, seen: Seen) -> jax.Array:
        for transform in self.transforms:
            scores = transform(scores, seen)
        return scores


def chain(*transforms: LogitsTransform | Callable[[jax.Array, Seen], jax.Array]) -> Chain:
    """Apply transforms in the order given. Plain functions of (scores, seen) may stand among them."""
    flat: list[LogitsTransform] = []
    for one in transforms:
        if isinstance(one, Chain):
            flat += one.transforms
        elif not callable(one):
            raise TypeError(f"chain takes transforms and functions of (scores, seen); got {one!r}")
        else:
            flat.append(one if is_pytree_node(one) else Own(one))
    return Chain(tuple(flat))


def is_pytree_node(value: object) -> bool:
    """Whether jax would look inside; a plain function is a leaf."""
    return not jax.tree_util.treedef_is_leaf(jax.tree_util.tree_structure(value))
