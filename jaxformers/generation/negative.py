"""Classifier-free guidance: the rows of a negative prompt are read and continued beside those of the prompt."""

import dataclasses
from typing import Any

import numpy as np

from jaxformers.core.errors import ConfigError
from jaxformers.generation.config import GenerationConfig
from jaxformers.generation.prompts import filler, left
from jaxformers.generation.request import Request
from jaxformers.generation.writer import EncoderDecoderWriter, Prompt


def guides(config: GenerationConfig) -> bool:
    """Whether the config asks for guidance."""
    return config.guidance_scale is not None and config.guidance_scale != 1


def with_negative(request: Request, ids: Any, mask: Any) -> Request:
    """The request with a negative prompt's rows below the prompt's: by default the prompt's last token alone.

    Raises ConfigError for encoder-decoders, which transformers does not guide either.
    """
    if isinstance(request.writer, EncoderDecoderWriter):
        raise ConfigError("guidance_scale needs a decoder-only model; leave it out")
    prompt = request.prompt
    if ids is None:
        ids, mask = np.asarray(prompt.tokens)[: request.rows, -1:], None
    ids = np.asarray(ids)
    if ids.shape[0] != request.rows:
        raise ValueError(f"negative_prompt_ids have {ids.shape[0]} rows; expected {request.rows}, as the prompt")
    # transformers counts this prompt's padding in positions.
    counting = dataclasses.replace(request.writer, positions="columns")
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids) if mask is None else mask}
    below = counting.prompt(request.model, given, request.config)
    width = max(prompt.width, below.width)
    both = stacked(*(widened(p, width, filler(request.writer, request.config)) for p in (prompt, below)))
    return request.replace(prompt=both, writer=dataclasses.replace(request.writer, sides=2))


def widened(prompt: Prompt, width: int, token: int) -> Prompt:
    """The same prompt with more padding on its left."""
    more = width - prompt.width
    return prompt.replace(
        tokens=left(prompt.tokens, width, token),
        real=left(prompt.real, width, False),
        positions=left(prompt.positions, width, 0),
        shift=prompt.shift - more,
        start=np.int32(prompt.start + more),
        encoder_tokens=None if prompt.encoder_tokens is None else left(prompt.encoder_tokens, width, token),
        encoder_real=None if prompt.encoder_real is None else np.pad(prompt.encoder_real, (more, 0)),
    )


def stacked(prompt: Prompt, below: Prompt) -> Prompt:
    """Rows of one prompt over those of another."""
    if prompt.extra:
        raise ConfigError(f"guidance_scale goes with a prompt of tokens only; found {sorted(prompt.extra)} as well")
    names = ("tokens", "real", "positions", "shift")
    rows = {n: np.concatenate([getattr(prompt, n), getattr(below, n)]) for n in names}
    tokens = prompt.encoder_tokens
    return prompt.replace(**rows, encoder_tokens=tokens if tokens is None else np.concatenate([tokens, tokens]))
