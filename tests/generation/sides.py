"""Both sides of a generation test: a torch model of the parity table, and ours with the same numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import DynamicCache, EncoderDecoderCache
from transformers.generation import GenerationMixin

import jaxformers as jf
from jaxformers.generation.asking import read_request
from jaxformers.generation.generate import mode_of
from tests.parity import torch_side
from tests.parity.row import Row
from tests.parity.test_families import load


def both(row: Row, folder: Path, **kwargs: Any) -> tuple[Any, jf.Model]:
    """The row's torch model and ours."""
    theirs = torch_side.make(row)
    torch_side.save(theirs, folder)
    return theirs, load(row, folder, **kwargs)


def their_generate(model: Any, inputs: dict[str, Any], **options: Any) -> Any:
    """transformers' own generate of every type, without what whisper's class adds."""
    given = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in inputs.items()}
    if model.config.is_encoder_decoder and model.config.model_type == "t5":
        # The cache that generate would make has one layer for each of the encoder's, however many the decoder has.
        given["past_key_values"] = EncoderDecoderCache(DynamicCache(), DynamicCache())
    with torch.no_grad():
        return GenerationMixin.generate(model, **given, **options)


def our_generate(model: jf.Model, **given: Any) -> Any:
    """Ours, likewise."""
    request = read_request(model, **given)
    return mode_of(request)(request)


def prompt(row: Row, config: Any, length: int = 5) -> dict[str, Any]:
    """The row's inputs as a prompt: decoder inputs begin with the start token, and are short."""
    inputs = row.inputs(config, np.random.RandomState(0))
    if "decoder_input_ids" in inputs:
        start = config.decoder_start_token_id
        inputs["decoder_input_ids"] = np.concatenate(
            [np.full((2, 1), start), inputs["decoder_input_ids"][:, : length - 1]], axis=1
        )
    return inputs


def left_padded(inputs: dict[str, Any]) -> dict[str, Any]:
    """The second row begins with three tokens of padding."""
    mask = inputs["attention_mask"].copy()
    mask[1, :3] = 0
    return {**inputs, "attention_mask": mask}


transformers.logging.set_verbosity_error()
