"""Layers that share parameters: one pattern of blocks applied again and again (ALBERT)."""

import jax
from flax import linen as nn

from jaxformers.core.context import Context
from jaxformers.nn.stack import Layers, Segments, Stack, run


class Repeated(nn.Module):
    """A pattern of blocks applied `repeats` times with the same parameters, under one scan."""

    pattern: Layers
    repeats: int
    remat: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context):
        def body(module: nn.Module, x: jax.Array, _):
            x, _, records = run(self.pattern, x, ctx, None, self.remat)
            return x, records

        rngs = {"params": False, "dropout": True, "lora": True}
        scan = nn.scan(body, variable_broadcast=["params", "lora"], split_rngs=rngs, length=self.repeats)
        x, records = scan(self, x, None)
        return x, [jax.tree.map(lambda r, n=n: r[n], one) for n in range(self.repeats) for one in records]


class SharedStack(Stack):
    """Groups of shared layers in order; group g is applied repeats[g] times.

    `layers` is the pattern of one group. Nothing is stacked, so the parameters are the same with and without `scan`.
    """

    repeats: tuple[int, ...] = ()

    @property
    def segments(self) -> Segments:
        """None: no leaf holds more than one layer."""
        return ()

    def init_state(self, batch: int, length: int, dtype, encoder_length: int = 0) -> tuple:
        raise ValueError("layers that share parameters do not decode: they have no cache")

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, state: tuple | None = None):
        by_layer, first = [], x
        for n, repeats in enumerate(self.repeats):
            x, seen = Repeated(self.layers, repeats, self.remat, name=str(n))(x, ctx)
            by_layer.extend(seen)
        records = {name: tuple(r[name] for r in by_layer if name in r) for r in by_layer for name in r}
        if ctx.records("hidden_states"):
            records["hidden_states"] = (first, *records.get("hidden_states", ()))
        return x, None, records
