"""WaveEncoder: samples to frames, frames through a stack that sees both ways. The base model of wav2vec 2.0."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxformers.core.context import Context, recording
from jaxformers.core.mask import Mask
from jaxformers.core.outputs import Array, Layers, ModelOutput
from jaxformers.core.sharding import constrain
from jaxformers.nn.param import dropout
from jaxformers.nn.patch import Token
from jaxformers.nn.spec_augment import SpecAugment
from jaxformers.nn.stack import Stack
from jaxformers.nn.waves import ConvPositions, FrameAdapter, FrameProjection, WaveStem


@struct.dataclass
class Wav2Vec2BaseModelOutput(ModelOutput):
    """`extract_features` are the normalised frames before the projection."""

    last_hidden_state: Array
    extract_features: Array
    hidden_states: Layers | None = None
    attentions: Layers | None = None


class WaveEncoder(nn.Module):
    """stem -> project -> hidden spans -> + positions -> pre -> layers -> post -> adapter.

    pre, post: norms before or after the layers. mask: the vector that stands for hidden frames. augment: what training
    hides at random; None where the config turns hiding off, the caller's own mask included.
    layerdrop: whether training skips layers at random, which the adapter's shrinking layers cannot do.
    """

    stem: WaveStem
    project: FrameProjection
    positions: ConvPositions
    layers: Stack
    pre: nn.Module | None = None
    post: nn.Module | None = None
    mask: Token | None = None
    adapter: FrameAdapter | None = None
    augment: SpecAugment | None = None
    dropout: float = 0.0
    layerdrop: bool = False

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        # Adapters and time-delay heads need some frames to shrink.
        return {"input_values": jax.ShapeDtypeStruct((1, 160 * self.stem.shortest), jnp.float32)}

    def frame_count(self, attention_mask: jax.Array, adapted: bool = True) -> jax.Array:
        """How many frames [B] come of the real samples; `adapted`: after the adapter."""
        frames = self.stem.frames(attention_mask.astype(jnp.int32).sum(axis=-1))
        return self.adapter.frames(frames) if adapted and self.adapter is not None else frames

    def real_frames(self, attention_mask: jax.Array, count: int, adapted: bool = True) -> jax.Array:
        """Bool [B,count]: which frames come of real samples, where [B,samples] is 1 at those; padding is at the end."""
        frames = self.frame_count(attention_mask, adapted)
        # As transformers, no frame at all counts as all frames.
        return jnp.arange(count) <= ((frames - 1) % count)[:, None]

    def hide(self, x: jax.Array, where: jax.Array | None, real: jax.Array | None, train: bool) -> jax.Array:
        """Put the mask vector at hidden frames, the caller's or drawn at random, and zeros at hidden features."""
        token = None if self.mask is None else self.mask()
        if self.augment is None:
            return x
        batch, length, width = x.shape
        if where is None and train and self.augment.time.rate > 0:
            lengths = jnp.full((batch,), length) if real is None else real.sum(axis=1)
            where = self.augment.time(self.make_rng("dropout"), length, lengths)
        if where is not None:
            if token is None:
                raise ValueError("mask_time_indices need a mask vector; set mask_time_prob above 0 in the config")
            x = jnp.where(where.astype(bool)[..., None], token.astype(x.dtype), x)
        if train and self.augment.features.rate > 0:
            hidden = self.augment.features(self.make_rng("dropout"), width, jnp.full((batch,), width))
            x = jnp.where(hidden[:, None], jnp.zeros_like(x), x)
        return x

    def __call__(
        self,
        input_values: jax.Array,
        attention_mask: jax.Array | None = None,
        mask_time_indices: jax.Array | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        train: bool = False,
    ) -> Wav2Vec2BaseModelOutput:
        """input_values [B,samples]; attention_mask [B,samples]; mask_time_indices [B,frames], true where hidden."""
        if train and self.layerdrop and self.adapter is not None:
            raise ValueError(
                "layerdrop cannot skip the adapter's layers, which shorten the sequence; set layerdrop=0.0"
            )
        x = self.stem(input_values)
        real = None if attention_mask is None else self.real_frames(attention_mask, x.shape[1], adapted=False)
        x, features = self.project(x, train)
        x = self.hide(x, mask_time_indices, real, train)
        if real is not None:
            x = jnp.where(real[..., None], x, jnp.zeros_like(x))
        x = x + self.positions(x)
        x = x if self.pre is None else self.pre(x)
        x = dropout(self, x, self.dropout, train)
        record = recording(hidden_states=output_hidden_states, attentions=output_attentions)
        ctx = Context.plain(x.shape[1], mask=Mask(keys=real), train=train, record=record)
        x, _, records = self.layers(constrain(x, "batch", "length", None), ctx)
        x = x if self.post is None else self.post(x)
        x = x if self.adapter is None else self.adapter(x)
        return Wav2Vec2BaseModelOutput(last_hidden_state=x, extract_features=features, **records)
