"""Language models of sparse decoders: logits, and the loss that evens out the experts' load."""

from dataclasses import replace

import jax
from flax import struct

from jaxformers.core.outputs import LogitsOutput
from jaxformers.heads.lm import CausalLM
from jaxformers.heads.scoring import Scoring
from jaxformers.ops.moe import load_balance


@struct.dataclass
class MoeLogitsOutput(LogitsOutput):
    """`aux_loss` comes with router_logits; training adds it to the loss, times the config's router_aux_loss_coef."""

    aux_loss: jax.Array | None = None


class MoeCausalLM(CausalLM):
    """CausalLM that returns the load-balancing loss beside router_logits. top_k: experts chosen for each token."""

    top_k: int = 1

    def __call__(
        self, input_ids: jax.Array | None = None, attention_mask: jax.Array | None = None, **kwargs
    ) -> MoeLogitsOutput:
        out = super().__call__(input_ids, attention_mask=attention_mask, **kwargs)
        fields = {name: getattr(out, name) for name in LogitsOutput.__dataclass_fields__}
        return MoeLogitsOutput(**fields, aux_loss=self.balance(out.router_logits, attention_mask))

    def scoring(self, input_ids: jax.Array | None = None, attention_mask: jax.Array | None = None, **kwargs) -> Scoring:
        """As CausalLM's, with the load-balancing loss among the records."""
        out = super().scoring(input_ids, attention_mask=attention_mask, **kwargs)
        loss = self.balance(out.records["router_logits"], attention_mask)
        return replace(out, records={**out.records, "aux_loss": loss})

    def balance(self, logits: tuple[jax.Array, ...] | None, attention_mask: jax.Array | None) -> jax.Array | None:
        """The load-balancing loss of the routers' logits, None where none were asked for."""
        if not logits:
            return None
        # A mask of all cached slots says nothing about which of these tokens are real.
        count = logits[0].shape[0]
        real = attention_mask if attention_mask is not None and attention_mask.size == count else None
        return load_balance(logits, self.top_k, real)
