"""One decision for a recording."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.outputs import BaseModelOutput, LogitsOutput
from jaxformers.nn.linear import Linear
from jaxformers.nn.param import Constant, param
from jaxformers.nn.seq2seq import as_output


class RecordingClassifier(nn.Module):
    """classifier(mean over time of projector(x)), x being the output, or a learned average of all hidden states."""

    backbone: nn.Module
    labels: int
    width: int
    averaged: int = 0  # how many hidden states a learned average takes in; 0 uses the output alone

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    @nn.compact
    def __call__(
        self,
        input_features: jax.Array | None = None,
        encoder_outputs: BaseModelOutput | tuple | jax.Array | None = None,
        output_hidden_states: bool = False,
        **kwargs,
    ) -> LogitsOutput:
        if encoder_outputs is not None:
            out = as_output(encoder_outputs)
        else:
            out = self.backbone(
                input_features, output_hidden_states=output_hidden_states or self.averaged > 0, **kwargs
            )
        x = out.last_hidden_state
        if self.averaged:
            if out.hidden_states is None:
                raise ValueError("use_weighted_layer_sum needs hidden states: encode with output_hidden_states=True")
            weights = param(self, "layer_weights", Constant(1 / self.averaged), (self.averaged,), (None,))
            shares = jax.nn.softmax(weights.astype(jnp.float32))
            x = sum(h * share.astype(h.dtype) for h, share in zip(out.hidden_states, shares, strict=True))
        x = Linear(self.width, True, ("embed", None), name="projector")(x)
        logits = Linear(self.labels, True, ("embed", None), name="classifier")(x.mean(axis=1))
        return LogitsOutput(logits=logits, hidden_states=out.hidden_states, attentions=out.attentions)
