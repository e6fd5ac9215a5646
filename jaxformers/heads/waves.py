"""Heads for audio: letters for each frame, one class, classes for each frame, and a voice's embedding."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxformers.core.outputs import Array, Layers, LogitsOutput, ModelOutput
from jaxformers.core.sharding import constrain
from jaxformers.nn.conv1d import convolve
from jaxformers.nn.linear import Linear
from jaxformers.nn.param import ZEROS, Constant, Normal, dropout, param


@struct.dataclass
class XVectorOutput(ModelOutput):
    """`embeddings` describe the voice; `logits` are what training compares with the classes."""

    logits: Array
    embeddings: Array
    hidden_states: Layers | None = None
    attentions: Layers | None = None


def wave_records(out: Any, hidden_states: bool) -> dict[str, Any]:
    """What the encoder's output passes on to the head's."""
    return {"hidden_states": out.hidden_states if hidden_states else None, "attentions": out.attentions}


class LayerSum(nn.Module):
    """All hidden states of a model, weighted by learned numbers that sum to one."""

    @nn.compact
    def __call__(self, states: tuple[jax.Array, ...]) -> jax.Array:
        count = len(states)
        weights = jax.nn.softmax(param(self, "weights", Constant(1.0 / count), (count,), (None,)))
        return (jnp.stack(states, axis=1) * weights[:, None, None]).sum(axis=1)


class WaveHead(nn.Module):
    """What heads on a WaveEncoder share. sum: weighs all layers; None takes the last."""

    backbone: nn.Module
    sum: LayerSum | None = None

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    def states(self, *args: Any, output_hidden_states: bool = False, **kwargs: Any) -> tuple[jax.Array, dict]:
        """The hidden states that the head reads, and what it passes on."""
        wanted = output_hidden_states or self.sum is not None
        out = self.backbone(*args, output_hidden_states=wanted, **kwargs)
        x = out.last_hidden_state if self.sum is None else self.sum(out.hidden_states)
        return x, wave_records(out, output_hidden_states)


class CTC(WaveHead):
    """head(dropout(x)) for each frame, letters and the blank that separates them."""

    vocab: int = 0
    dropout: float = 0.0

    @nn.compact
    def __call__(self, input_values: jax.Array, attention_mask: jax.Array | None = None, **kwargs) -> LogitsOutput:
        x, records = self.states(input_values, attention_mask, **kwargs)
        x = dropout(self, x, self.dropout, kwargs.get("train", False))
        logits = Linear(self.vocab, True, ("embed", "vocab"), name="head")(x)
        return LogitsOutput(logits=constrain(logits, "batch", "length", "vocab"), **records)


class WaveClassifier(WaveHead):
    """head(mean over real frames of project(x))."""

    width: int = 0
    labels: int = 0

    @nn.compact
    def __call__(self, input_values: jax.Array, attention_mask: jax.Array | None = None, **kwargs) -> LogitsOutput:
        x, records = self.states(input_values, attention_mask, **kwargs)
        x = Linear(self.width, True, ("embed", None), name="project")(x)
        if attention_mask is None:
            pooled = x.mean(axis=1)
        else:
            real = self.backbone.real_frames(attention_mask, x.shape[1])
            pooled = jnp.where(real[..., None], x, 0).sum(axis=1) / real.sum(axis=1, keepdims=True).astype(x.dtype)
        return LogitsOutput(logits=Linear(self.labels, True, (None, None), name="head")(pooled), **records)


class FrameClassifier(WaveHead):
    """head(x) for each frame."""

    labels: int = 0

    @nn.compact
    def __call__(self, input_values: jax.Array, attention_mask: jax.Array | None = None, **kwargs) -> LogitsOutput:
        x, records = self.states(input_values, attention_mask, **kwargs)
        return LogitsOutput(logits=Linear(self.labels, True, ("embed", None), name="head")(x), **records)


class TimeDelay(nn.Module):
    """relu(convolution over time), its kernel stored as one matrix [width * in, features]. Source: arXiv:1806.05622."""

    features: int
    width: int
    dilation: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = param(self, "kernel", Normal(), (self.width * x.shape[-1], self.features), (None, "mlp"))
        bias = param(self, "bias", ZEROS, (self.features,), ("mlp",))
        span = self.dilation * (self.width - 1) + 1
        if x.shape[1] < span:
            raise ValueError(f"{x.shape[1]} frames are too few for a window of {span}; give longer audio")
        return jax.nn.relu(convolve(x, kernel.reshape(self.width, -1, self.features), dilation=self.dilation) + bias)


def mean_and_deviation(x: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """[B,T,C] -> [B,2C]: mean and standard deviation over the first `lengths` [B] frames, or all."""
    frames = x.shape[1]
    count = jnp.full((x.shape[0],), frames) if lengths is None else jnp.minimum(lengths, frames)
    # As in transformers, a negative length counts from the end.
    count = jnp.where(count < 0, jnp.maximum(count + frames, 0), count)
    real = (jnp.arange(frames) < count[:, None])[..., None]
    n = count[:, None].astype(jnp.float32)
    h = x.astype(jnp.float32)
    mean = jnp.where(real, h, 0).sum(axis=1) / n
    spread = jnp.where(real, jnp.square(h - mean[:, None]), 0).sum(axis=1)
    return jnp.concatenate([mean, jnp.sqrt(spread / (n - 1))], axis=-1).astype(x.dtype)


class XVector(WaveHead):
    """A voice's embedding from time-delay layers' mean and deviation. delays: (features, width, dilation) of each."""

    delays: tuple[tuple[int, int, int], ...] = ()
    width: int = 0
    labels: int = 0

    @nn.compact
    def __call__(self, input_values: jax.Array, attention_mask: jax.Array | None = None, **kwargs) -> XVectorOutput:
        x, records = self.states(input_values, attention_mask, **kwargs)
        x = Linear(self.delays[0][0], True, ("embed", None), name="project")(x)
        for n, (features, width, dilation) in enumerate(self.delays):
            x = TimeDelay(features, width, dilation, name=f"delay_{n}")(x)
        lengths = None
        if attention_mask is not None:
            lengths = self.backbone.frame_count(attention_mask)
            for _, width, _ in self.delays:
                lengths = lengths - width + 1  # transformers leaves dilation out
        embeddings = Linear(self.width, True, (None, None), name="embedding")(mean_and_deviation(x, lengths))
        logits = Linear(self.width, True, (None, None), name="head")(embeddings)
        # The classes' directions, which the training loss compares logits with.
        param(self, "classes", Normal(1.0), (self.width, self.labels), (None, None))
        return XVectorOutput(logits=logits, embeddings=embeddings, **records)
