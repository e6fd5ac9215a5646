"""The loss of encoder-decoder models, for text and for speech."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxformers.hub.model import Model
from jaxformers.nn.seq2seq import shift_right
from jaxformers.training.losses.output import Batch, LossOutput
from jaxformers.training.losses.running import labels_of, run
from jaxformers.training.losses.words import WordLoss

GIVEN = ("decoder_input_ids", "decoder_inputs_embeds", "past_key_values")


@dataclass(frozen=True)
class Seq2SeqLoss(WordLoss):
    """Mean over tokens of the decoder's cross-entropy; `labels` [B,T], -100 where none counts.

    Without decoder_input_ids the decoder reads the labels one place to the right, after the config's
    decoder_start_token_id, with pad_token_id for -100.
    """

    def __call__(self, model: Model, batch: Batch, key: jax.Array | None = None) -> LossOutput:
        labels = jnp.asarray(labels_of(batch, "labels"))
        if not any(name in batch for name in GIVEN):
            batch = {**batch, "decoder_input_ids": decoder_inputs(model, labels)}
        scoring = run(model, batch, ("labels",), key, method="scoring")
        return self.words(model, scoring, labels)


def decoder_inputs(model: Model, labels: jax.Array) -> jax.Array:
    """What the decoder reads to write these labels [B,T]. Raises ValueError where the config cannot tell."""
    c = model.config
    start, room = c.decoder_start_token_id, getattr(c, "max_target_positions", None)
    if start is None:
        raise ValueError("labels become decoder_input_ids after decoder_start_token_id; set it in the config")
    if room is not None and labels.shape[1] > room:
        raise ValueError(f"labels have length {labels.shape[1]}; the decoder has room for {room} tokens: cut them")
    return shift_right(labels, start, c.pad_token_id)
