"""Cross-attention of models that also run without an encoder."""

from jaxformers.core.context import Context
from jaxformers.core.state import CrossState
from jaxformers.nn.attention import CrossAttention


class OptionalCrossAttention(CrossAttention):
    """Attention over `ctx.encoder`; a block leaves it out when neither the context nor the cache has an encoder."""

    def idle(self, ctx: Context, state: CrossState | None) -> bool:
        """Whether there is nothing to attend to."""
        return ctx.encoder is None and (state is None or state.k.shape[1] == 0)
