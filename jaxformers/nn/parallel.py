"""Parallel: several branches that read the same input and whose outputs are added."""

from dataclasses import dataclass

import jax
from flax import linen as nn

from jaxformers.core.context import Context


@dataclass(frozen=True)
class Path:
    """One branch, and the norm before it if it has one of its own; plain data that holds templates."""

    name: str
    branch: nn.Module
    pre: nn.Module | None = None


class Parallel(nn.Module):
    """Sum of branch(pre(x)) over the paths; a norm that all paths share goes to the residual around this (Falcon)."""

    paths: tuple[Path, ...]

    def init_state(self, batch: int, length: int, dtype) -> tuple:
        """A state for each path; None where a path remembers nothing."""
        branches = [p.branch for p in self.paths]
        return tuple(b.init_state(batch, length, dtype) if hasattr(b, "init_state") else None for b in branches)

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state: tuple | None = None):
        total, states, records = None, [], {}
        for path, before in zip(self.paths, state or (None,) * len(self.paths), strict=True):
            with jax.named_scope(path.name):
                h = x if path.pre is None else path.pre.copy(name=f"{path.name}_pre")(x)
                h, new, seen = path.branch.copy(name=path.name)(h, ctx, before)
            total = h if total is None else total + h
            states.append(new)
            records |= seen
        return total, None if state is None else tuple(states), records
