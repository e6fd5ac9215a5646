"""Attention sinks: a learned score for each head, which takes probability and gives no value (arXiv:2309.17453)."""

import jax

from jaxformers.nn.attention import Attention
from jaxformers.nn.param import ZEROS, param


class SinkAttention(Attention):
    """Attention whose heads may attend to nothing."""

    def extras(self) -> dict[str, jax.Array]:
        """The sinks [H], for the attention op."""
        return {"sinks": param(self, "sinks", ZEROS, (self.heads,), ("heads",))}
