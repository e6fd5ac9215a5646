"""wav2vec 2.0's pretraining: frames become codes, which hidden frames must tell apart. Source: arXiv:2006.11477."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxformers.core.outputs import Array, Layers, ModelOutput
from jaxformers.nn.fans import UnitUniform
from jaxformers.nn.linear import Linear
from jaxformers.nn.param import dropout, param
from jaxformers.ops.dot import einsum


@struct.dataclass
class Wav2Vec2ForPreTrainingOutput(ModelOutput):
    """The losses come with sampled_negative_indices; they are sums over hidden frames, not means."""

    projected_states: Array
    projected_quantized_states: Array
    codevector_perplexity: Array
    loss: Array | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None
    contrastive_loss: Array | None = None
    diversity_loss: Array | None = None


class Quantizer(nn.Module):
    """Each frame's nearest code in each of `groups` codebooks of `codes` entries; in training a code is drawn."""

    groups: int
    codes: int
    width: int

    @nn.compact
    def __call__(
        self, x: jax.Array, where: jax.Array | None, temperature: jax.Array | float, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """x [B,T,C] -> codes [B,T,width] and how many codes are in use, counted where `where` [B,T] is true."""
        table = param(
            self, "codes", UnitUniform(), (1, self.groups * self.codes, self.width // self.groups), (None,) * 3
        )
        scores = Linear(self.groups * self.codes, True, ("embed", None), name="scores")(x)
        scores = scores.reshape(*x.shape[:2], self.groups, self.codes).astype(jnp.float32)
        if train:
            noise = jax.random.gumbel(self.make_rng("dropout"), scores.shape)
            soft = jax.nn.softmax((scores + noise) / temperature)
            hard = jax.nn.one_hot(jnp.argmax(soft, axis=-1), self.codes)
            # The value is the code that was drawn, the gradient that of the soft choice.
            chosen = hard + soft - jax.lax.stop_gradient(soft)
            seen = jax.nn.softmax(scores)
        else:
            chosen = seen = jax.nn.one_hot(jnp.argmax(scores, axis=-1), self.codes)
        out = einsum("btgv,gvd->btgd", chosen.astype(table.dtype), table.reshape(self.groups, self.codes, -1))
        return out.reshape(*x.shape[:2], -1), perplexity(seen, where)


def perplexity(chances: jax.Array, where: jax.Array | None) -> jax.Array:
    """exp(entropy) of the mean of `chances` [B,T,G,V], summed over groups."""
    weights = jnp.ones(chances.shape[:2]) if where is None else where.astype(chances.dtype)
    mean = einsum("bt,btgv->gv", weights, chances) / weights.sum()
    return jnp.exp(-jnp.where(mean > 0, mean * jnp.log(jnp.where(mean > 0, mean, 1.0)), 0.0).sum(axis=-1)).sum()


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """Cosine of the last axes, in float32."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    size = jnp.maximum(jnp.linalg.norm(a, axis=-1), 1e-8) * jnp.maximum(jnp.linalg.norm(b, axis=-1), 1e-8)
    return (a * b).sum(axis=-1) / size


def contrast(
    states: jax.Array, codes: jax.Array, negatives: jax.Array, where: jax.Array, temperature: float
) -> jax.Array:
    """Cross-entropy of each hidden frame's own code against `negatives` [B,T,N], indices into all frames [B*T]."""
    others = codes.reshape(-1, codes.shape[-1])[negatives]  # [B,T,N,C]
    logits = cosine(states[:, :, None], jnp.concatenate([codes[:, :, None], others], axis=2)) / temperature
    same = (others == codes[:, :, None]).all(axis=-1)
    logits = logits.at[:, :, 1:].set(jnp.where(same, -jnp.inf, logits[:, :, 1:]))
    return -(jax.nn.log_softmax(logits)[:, :, 0] * where).sum()


class ContrastivePretraining(nn.Module):
    """states(last_hidden_state) beside codes(quantizer(features)), both of one width."""

    backbone: nn.Module
    quantizer: Quantizer
    states: Linear
    codes: Linear
    dropout: float = 0.0
    temperature: float = 0.1  # of the contrastive logits
    diversity: float = 0.1  # weight of the diversity loss

    def dummy_inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Inputs to initialise with."""
        return self.backbone.dummy_inputs()

    def __call__(
        self,
        input_values: jax.Array,
        attention_mask: jax.Array | None = None,
        mask_time_indices: jax.Array | None = None,
        sampled_negative_indices: jax.Array | None = None,
        gumbel_temperature: jax.Array | float = 2.0,
        train: bool = False,
        **kwargs,
    ) -> Wav2Vec2ForPreTrainingOutput:
        """As the encoder; sampled_negative_indices [B,T,N] add the losses, gumbel_temperature softens drawn codes."""
        out = self.backbone(input_values, attention_mask, mask_time_indices, train=train, **kwargs)
        where = None if mask_time_indices is None else mask_time_indices.astype(bool)
        states = self.states(out.last_hidden_state)
        features = dropout(self, out.extract_features, self.dropout, train)
        codes, used = self.quantizer(features, where, gumbel_temperature, train)
        codes = self.codes(codes)
        losses = {}
        if sampled_negative_indices is not None:
            if where is None:
                raise ValueError("sampled_negative_indices need mask_time_indices, the frames to tell apart")
            count = self.quantizer.groups * self.quantizer.codes
            contrastive = contrast(states, codes, sampled_negative_indices, where, self.temperature)
            diversity = (count - used) / count * where.sum()
            loss = contrastive + self.diversity * diversity
            losses = {"loss": loss, "contrastive_loss": contrastive, "diversity_loss": diversity}
        return Wav2Vec2ForPreTrainingOutput(
            projected_states=states,
            projected_quantized_states=codes,
            codevector_perplexity=used,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            **losses,
        )
