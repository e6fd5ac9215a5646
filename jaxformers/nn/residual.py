"""Residual and Block: one formula for every placement of norms, and blocks of such steps."""

from dataclasses import dataclass

import jax
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.nn.param import drop_path, dropout
from jaxformers.nn.remat import keep


@dataclass(frozen=True)
class Residual:
    """x = after(x + scale * post(branch(pre(x)))), as plain data.

    Pre-norm, post-norm, sandwich and scaled residuals fill different slots. Modules held here are templates: a block
    copies them, so one instance may be used many times. A branch maps (x, ctx, state) to (x, state, records). A branch
    with a method `idle` that says yes is left out, its norms included.
    """

    name: str
    branch: nn.Module
    pre: nn.Module | None = None
    post: nn.Module | None = None
    after: nn.Module | None = None
    scale: float = 1.0
    dropout: float = 0.0  # on the branch's output
    drop_path: float = 0.0


class Block(nn.Module):
    """Residual steps in order, or all reading the block's input when parallel."""

    steps: tuple[Residual, ...]
    parallel: bool = False

    def init_state(self, batch: int, length: int, dtype, encoder_length: int = 0) -> tuple:
        """A state for each step; None where a step remembers nothing."""
        out = []
        for step in self.steps:
            if hasattr(step.branch, "init_cross_state"):
                out.append(step.branch.init_cross_state(batch, encoder_length, dtype))
            elif hasattr(step.branch, "init_state"):
                out.append(step.branch.init_state(batch, length, dtype))
            else:
                out.append(None)
        return tuple(out)

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state: tuple | None = None):
        first, states, records = x, [], {}
        for step, before in zip(self.steps, state or (None,) * len(self.steps), strict=True):
            if hasattr(step.branch, "idle") and step.branch.idle(ctx, before):
                states.append(before)
                continue

            def slot(name: str, h: jax.Array, step: Residual = step) -> jax.Array:
                module = getattr(step, name)
                return h if module is None else module.copy(name=f"{step.name}_{name}")(h)

            with jax.named_scope(step.name):
                h = slot("pre", first if self.parallel else x)
                h, new, seen = step.branch.copy(name=step.name)(h, ctx, before)
                h = dropout(self, slot("post", h), step.dropout, ctx.train)
                h = drop_path(self, h, step.drop_path, ctx.train)
                h = keep(h, step.name)
                x = slot("after", x + (h if step.scale == 1.0 else h * step.scale))
            states.append(new)
            records |= seen
        return x, None if state is None else tuple(states), records


def prenorm(mixer: nn.Module, mlp: nn.Module, norm: nn.Module, **kwargs) -> Block:
    """The commonest block: norm, mixer, add; norm, feed-forward, add. `kwargs` go to both residuals."""
    return Block((Residual("attn", mixer, pre=norm, **kwargs), Residual("mlp", mlp, pre=norm, **kwargs)))
