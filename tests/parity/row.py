"""Rows of the parity table: one transformers class with one set of options each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """One class and one config of transformers, and what to compare.

    hf: transformers' class. task: ours ("CausalLM"), None for the base model. config: keywords of the config class.
    inputs: (config, rng) -> numpy arguments. full: also masks, both layouts, caches and half precisions; heads of a
    type that has a full row need only the forward and the round trip. cached: whether the class decodes with a cache.
    gradient: compare gradients of a loss as well. skip: output fields that transformers computes in another sense.
    prepare: changes the torch model before it is saved. as_theirs: gives our output the form of theirs.
    lost: patterns of their tensors that we do not keep.
    """

    hf: str
    config: Mapping[str, Any]
    task: str | None
    inputs: Callable[[Any, np.random.RandomState], Inputs]
    name: str = "default"
    full: bool = False
    cached: bool = False
    gradient: bool = False
    skip: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    prepare: Callable[[Any], None] | None = None
    as_theirs: Callable[[Any], Any] | None = None
    tolerance: float = 1e-4
    attn: str = "eager"
    call: Mapping[str, Any] = field(default_factory=dict)  # further arguments of both forwards

    def __str__(self) -> str:
        return f"{self.hf}-{self.name}"


BATCH, LENGTH = 2, 11


def text(c: Any, rng: np.random.RandomState) -> Inputs:
    """Token ids that avoid the padding id, and a full attention mask."""
    ids = rng.randint(3, c.get_text_config().vocab_size, (BATCH, LENGTH))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def typed_text(c: Any, rng: np.random.RandomState) -> Inputs:
    """`text` with token types."""
    inputs = text(c, rng)
    return {**inputs, "token_type_ids": rng.randint(0, c.type_vocab_size, inputs["input_ids"].shape)}


def choices(c: Any, rng: np.random.RandomState) -> Inputs:
    """Three choices for each of two questions."""
    ids = rng.randint(3, c.vocab_size, (BATCH, 3, LENGTH))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def seq2seq(c: Any, rng: np.random.RandomState) -> Inputs:
    """Text in, text out."""
    return {**text(c, rng), "decoder_input_ids": rng.randint(3, c.get_text_config().vocab_size, (BATCH, 7))}


def image(c: Any, rng: np.random.RandomState) -> Inputs:
    """Pixel values [B,C,H,W] of the config's size."""
    size = c.image_size if isinstance(c.image_size, int) else c.image_size[0]
    return {"pixel_values": rng.randn(BATCH, getattr(c, "num_channels", 3), size, size).astype(np.float32)}
