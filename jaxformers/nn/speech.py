"""Speech in: convolutions over mel features before an encoder, and the encoder-decoder that starts with them."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxformers.core.context import Context, recording
from jaxformers.core.outputs import BaseModelOutput, Seq2SeqModelOutput
from jaxformers.core.state import Cache
from jaxformers.nn.attention import Attention, split_heads
from jaxformers.nn.linear import Linear
from jaxformers.nn.param import ZEROS, Normal, param
from jaxformers.nn.seq2seq import Seq2Seq, Side, as_output
from jaxformers.ops.activations import gelu
from jaxformers.ops.dot import precision


class TimeConv(nn.Module):
    """Convolution over time of x [B,T,C], padded so that a stride of one keeps the length."""

    features: int
    width: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.width, x.shape[-1], self.features)
        kernel = param(self, "kernel", Normal(), shape, ("conv", None, "embed"))
        bias = param(self, "bias", ZEROS, (self.features,), ("embed",))
        pad = (self.width // 2, self.width // 2)
        x = x.astype(kernel.dtype)
        y = jax.lax.conv_general_dilated(
            x, kernel, (self.stride,), [pad], dimension_numbers=("NWC", "WIO", "NWC"), precision=precision(x, kernel)
        )
        return y + bias


class MelStem(nn.Module):
    """gelu(conv2(gelu(conv1(features)))), the second halving the length. [B,mel,T] -> [B,length,width]."""

    mels: int
    length: int
    width: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        if features.ndim != 3 or features.shape[1:] != (self.mels, 2 * self.length):
            raise ValueError(
                f"input_features have shape {features.shape}; expected [B,{self.mels},{2 * self.length}]: "
                "pad or cut the audio to the model's length"
            )
        x = gelu(TimeConv(self.width, name="conv1")(features.transpose(0, 2, 1)))
        return gelu(TimeConv(self.width, stride=2, name="conv2")(x))


class KeyUnbiasedAttention(Attention):
    """Self-attention with a bias on queries and values only."""

    def project(self, x: jax.Array, ctx: Context) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values [B,T,H,D]."""
        width = self.heads * self.head_dim

        def one(name: str, bias: bool) -> jax.Array:
            return split_heads(Linear(width, bias, ("embed", "heads"), name=name)(x), self.heads)

        return one("q_proj", True), one("k_proj", False), one("v_proj", True)


class SpeechEncoder(Side):
    """Mel features [B,mel,T] in, hidden states [B,T/2,D] out. `embed` is a MelStem."""

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        shape = (1, self.embed.mels, 2 * self.embed.length)  # type: ignore[attr-defined]
        return {"input_features": jax.ShapeDtypeStruct(shape, jnp.float32)}

    def __call__(
        self,
        input_features: jax.Array,
        attention_mask: jax.Array | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        train: bool = False,
    ) -> BaseModelOutput:
        """attention_mask is ignored, as in transformers: silence is part of the input."""
        x = self.embed(input_features)
        record = recording(hidden_states=output_hidden_states, attentions=output_attentions)
        return self.through(x, Context.plain(x.shape[1], train=train, record=record))


class SpeechSeq2Seq(Seq2Seq):
    """Seq2Seq whose encoder hears input_features [B,mel,T]. augment: the config asks for SpecAugment in training."""

    augment: bool = False

    def __call__(  # type: ignore[override]
        self,
        input_features: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        decoder_input_ids: jax.Array | None = None,
        decoder_attention_mask: jax.Array | None = None,
        encoder_outputs: BaseModelOutput | tuple | jax.Array | None = None,
        past_key_values: Cache | None = None,
        decoder_inputs_embeds: jax.Array | None = None,
        decoder_position_ids: jax.Array | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        train: bool = False,
    ) -> Seq2SeqModelOutput:
        if train and self.augment and encoder_outputs is None:
            raise ValueError(
                "apply_spec_augment=True masks features at random in training, which is not implemented here: "
                "mask input_features yourself and set apply_spec_augment=False"
            )
        asked = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions, "train": train}
        encoded = None
        if encoder_outputs is not None:
            encoded = as_output(encoder_outputs)
        elif input_features is not None:
            encoded = self.encoder(input_features, attention_mask, **asked)
        return self.decode(
            encoded,
            None,
            decoder_input_ids,
            attention_mask=decoder_attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            position_ids=decoder_position_ids,
            **asked,
        )
