"""Synthetic rows: random values in the shapes that a model's task trains on, to plan, to measure and to try a run."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxformers.core.errors import ConfigError

Fields = dict[str, np.ndarray]


class Synthetic:
    """Rows by number, each drawn from (seed, number). length: tokens of a text, by default what the model can read.

    Raises ConfigError for a task whose rows are not known.
    """

    def __init__(self, config: Any, task: str | None, *, length: int | None = None, rows: int = 4096, seed: int = 0):
        if task not in ROWS:
            raise ConfigError(f"there are no synthetic rows for task {task}; expected one of {', '.join(sorted(ROWS))}")
        self.config, self.task, self.rows, self.seed = config, task, rows, seed
        self.length = length or readable(config)

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> Fields:
        if not -self.rows <= index < self.rows:
            raise IndexError(index)
        draw = np.random.default_rng((self.seed, index % self.rows))
        return ROWS[self.task](self, draw)  # type: ignore[index]

    def tokens(self, draw: np.random.Generator, length: int | None = None) -> np.ndarray:
        """Random tokens, special ones among them."""
        size = text_of(self.config).vocab_size
        return draw.integers(0, size, length or self.length).astype(np.int32)

    def picture(self, draw: np.random.Generator) -> np.ndarray:
        """A normalised picture [C,H,W]."""
        vision = getattr(self.config, "vision_config", self.config)
        size = getattr(vision, "image_size", 224)
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return draw.standard_normal((getattr(vision, "num_channels", 3), height, width), np.float32)


def text_of(config: Any) -> Any:
    """The part of a config that speaks of texts."""
    return getattr(config, "text_config", config)


def readable(config: Any) -> int:
    """How many tokens a model can read, 512 where it does not say."""
    text = text_of(config)
    names = ("max_position_embeddings", "max_target_positions", "n_positions")
    return next((size for name in names if (size := getattr(text, name, None))), 512)


def causal(rows: Synthetic, draw: np.random.Generator) -> Fields:
    """A text that is its own label."""
    ids = rows.tokens(draw)
    return {"input_ids": ids, "labels": ids.copy()}


def masked(rows: Synthetic, draw: np.random.Generator) -> Fields:
    """A text of which some tokens are to be found again."""
    ids = rows.tokens(draw)
    labels = np.where(draw.random(ids.shape) < 0.15, ids, -100).astype(np.int32)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": labels}


def seq2seq(rows: Synthetic, draw: np.random.Generator) -> Fields:
    """A text and what is to be written."""
    ids = rows.tokens(draw)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": rows.tokens(draw)}


def text_class(rows: Synthetic, draw: np.random.Generator) -> Fields:
    """A text and its class."""
    ids = rows.tokens(draw)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": one_class(rows, draw)}


def token_classes(rows: Synthetic, draw: np.random.Generator) -> Fields:
    """A text and a class for each token."""
    ids = rows.tokens(draw)
    labels = draw.integers(0, rows.config.num_labels, ids.shape).astype(np.int32)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": labels}


def picture_class(rows: Synthetic, draw: np.random.Generator) -> Fields:
    """A picture and its class."""
    return {"pixel_values": rows.picture(draw), "labels": one_class(rows, draw)}


def picture_and_text(rows: Synthetic, draw: np.random.Generator) -> Fields:
    """A picture and the text that belongs to it, ended by the token that the text tower pools at."""
    ids = rows.tokens(draw)
    end = getattr(text_of(rows.config), "eos_token_id", None)
    if isinstance(end, int):
        ids[-1] = min(end, text_of(rows.config).vocab_size - 1)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "pixel_values": rows.picture(draw)}


def speech(rows: Synthetic, draw: np.random.Generator) -> Fields:
    """Mel features [mel,frames] of a whole window, and the words spoken."""
    frames = 2 * rows.config.max_source_positions  # the stem halves them
    features = draw.standard_normal((rows.config.num_mel_bins, frames), np.float32)
    return {"input_features": features, "labels": rows.tokens(draw)}


def one_class(rows: Synthetic, draw: np.random.Generator) -> np.ndarray:
    """A class's number."""
    return np.asarray(draw.integers(0, rows.config.num_labels), np.int32)


ROWS: dict[str, Callable[[Synthetic, np.random.Generator], Fields]] = {
    "CausalLM": causal,
    "MaskedLM": masked,
    "Seq2SeqLM": seq2seq,
    "SequenceClassification": text_class,
    "TokenClassification": token_classes,
    "ImageClassification": picture_class,
    "ZeroShotImageClassification": picture_and_text,
    "SpeechSeq2Seq": speech,
}
