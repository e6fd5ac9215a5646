"""A block whose residual stream is the normed input of each step, not the raw one."""

import jax
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.nn.param import dropout
from jaxformers.nn.residual import Block


class NormedStreamBlock(Block):
    """For each step: x = pre(x), then x = x + post(branch(x)) (BLOOM's residual connection after the norm)."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state: tuple | None = None):
        states, records = [], {}
        for step, before in zip(self.steps, state or (None,) * len(self.steps), strict=True):
            with jax.named_scope(step.name):
                x = x if step.pre is None else step.pre.copy(name=f"{step.name}_pre")(x)
                h, new, seen = step.branch.copy(name=step.name)(x, ctx, before)
                h = h if step.post is None else step.post.copy(name=f"{step.name}_post")(h)
                x = x + dropout(self, h, step.dropout, ctx.train)
            states.append(new)
            records |= seen
        return x, None if state is None else tuple(states), records
