"""What whisper listens to: windows of features through the encoder, and the decoder's first opinion of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core.errors import ConfigError
from jaxformers.generation.asking import unstacked, writer_for
from jaxformers.generation.buckets import row_bucket
from jaxformers.generation.config import GenerationConfig
from jaxformers.generation.prompts import more_rows
from jaxformers.generation.whisper_review import reread
from jaxformers.generation.whisper_settings import STRIDE, said
from jaxformers.hub.model import Model
from jaxformers.nn.seq2seq import as_output

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Sound:
    """Features [B,mels,frames], or what an encoder made of them already [B,S,D]; a row of each for every text."""

    features: np.ndarray | None
    encoded: np.ndarray | None
    given: int  # rows that the caller gave
    records: bool = False  # whether the encoder's own records are wanted, and features go to every call
    last: dict[Any, np.ndarray] = field(default_factory=dict)  # the window that was encoded last

    @classmethod
    def of(cls, features: Any, encoder_outputs: Any, records: bool = False) -> Sound:
        """Read what the caller gave. Raises ConfigError for nothing, both, or a wrong shape."""
        if (features is None) == (encoder_outputs is None):
            raise ConfigError("whisper needs input_features or encoder_outputs, and only one of them")
        value = np.asarray(as_output(encoder_outputs).last_hidden_state if features is None else features)
        if value.ndim != 3:
            raise ConfigError(f"input_features have shape {value.shape}; expected [batch, mels, frames]")
        return cls(None, value, len(value)) if features is None else cls(value, None, len(value), records)

    @property
    def batch(self) -> int:
        """How many rows there are."""
        return len(self.encoded if self.features is None else self.features)

    @property
    def frames(self) -> int:
        """How many mel frames there are."""
        return self.encoded.shape[1] * STRIDE if self.features is None else self.features.shape[-1]

    def beginnings(self, width: int) -> list[tuple[int, int, int]]:
        """The first window of every row."""
        return [(row, 0, width) for row in range(self.batch)]

    def repeated(self, copies: int) -> Sound:
        """Each row several times."""
        if copies == 1:
            return self
        if self.features is None:
            return replace(self, encoded=np.repeat(self.encoded, copies, axis=0))
        return replace(self, features=np.repeat(self.features, copies, axis=0), last={})

    def window(self, model: Model, spans: Sequence[tuple[int, int, int]], width: int) -> Inputs:
        """The inputs of `generate` for windows of `width` frames, each (row, start, end); silence behind the end."""
        if self.features is None:
            return {"encoder_outputs": self.encoded[[row for row, _, _ in spans]]}
        places = tuple(spans)
        if self.records:
            return {"input_features": self.cut(places, width)}
        if places not in self.last:
            self.last.clear()
            self.last[places] = encode(model, self.cut(places, width))
        return {"encoder_outputs": self.last[places]}

    def cut(self, places: Sequence[tuple[int, int, int]], width: int) -> np.ndarray:
        """Features [b,mels,width] of spans."""
        found = np.zeros((len(places), self.features.shape[1], width), self.features.dtype)
        for i, (row, start, end) in enumerate(places):
            piece = self.features[row, :, start : min(start + width, end)]
            found[i, :, : piece.shape[-1]] = piece
        return found


def encode(model: Model, features: np.ndarray) -> np.ndarray:
    """The encoder's output [b,S,D], its batch in a bucket while it runs."""
    out = model(input_features=more_rows(features, row_bucket(len(features))), method="encode")
    return np.asarray(out.last_hidden_state)[: len(features)]


def first_scores(
    model: Model, inputs: Inputs, ids: np.ndarray, mask: np.ndarray | None, config: GenerationConfig
) -> jax.Array:
    """Scores [b,V] of what follows the decoder's tokens [b,P]. The model's layers are one by one."""
    writer = writer_for(model, GenerationConfig().filled())
    given = {**inputs, "decoder_input_ids": ids} | ({} if mask is None else {"decoder_attention_mask": mask})
    prompt = writer.prompt(model, given, config)
    return reread(model, writer, prompt, capacity=prompt.width)[0][: len(ids)]


def language_of(model: Model, inputs: Inputs, config: GenerationConfig) -> np.ndarray:
    """The token of the likeliest language of each row, Int [b]."""
    known = said(config, "lang_to_id")
    start = said(config, "decoder_start_token_id")
    if known is None or start is None:
        raise ConfigError("detecting a language needs lang_to_id and decoder_start_token_id in the generation config")
    rows = len(next(iter(inputs.values())))
    scores = first_scores(model, inputs, np.full((rows, 1), start, np.int32), None, config)
    tokens = jnp.asarray(sorted(known.values()))
    return np.asarray(tokens[jnp.argmax(scores[:, tokens], axis=-1)])


def detect_language(
    model: Model,
    input_features: Any = None,
    encoder_outputs: Any = None,
    generation_config: GenerationConfig | None = None,
    num_segment_frames: int | None = None,
) -> jax.Array:
    """The token of the language spoken in features [B,mels,frames], Int [B]; only the first window is heard.

    `num_segment_frames` is the model's, whatever is given. Raises ConfigError if the model knows one language only.
    """
    config = (generation_config or GenerationConfig()).over(model.generation_config)
    sound, ready = Sound.of(input_features, encoder_outputs), unstacked(model)
    width = STRIDE * model.config.max_source_positions
    inputs = sound.window(ready, sound.beginnings(width), width)
    return jnp.asarray(language_of(ready, inputs, config))
