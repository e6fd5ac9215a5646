"""How many tokens to write: transformers' rules for max_length, max_new_tokens and their minimum."""

import warnings
from typing import Any

from jaxformers.generation.config import DEFAULTS, GenerationConfig


def with_lengths(
    config: GenerationConfig, told: GenerationConfig, model_config: Any, prompt: int, unseen: int = 0
) -> tuple[GenerationConfig, int]:
    """The config with max_length and min_length of the whole text, and how many new tokens that allows.

    config: complete. told: without defaults, to see what was asked for. prompt: tokens there are. unseen: how many more
    a prompt of embeddings has. Raises ValueError when the prompt leaves no room.
    """
    longest, shortest = config.max_length or DEFAULTS["max_length"], config.min_length or 0
    if config.max_new_tokens is not None:
        if told.max_length is not None:
            warnings.warn(
                f"max_new_tokens (={config.max_new_tokens}) and max_length (={told.max_length}) are both set; "
                "max_new_tokens takes precedence",
                stacklevel=4,
            )
        longest = config.max_new_tokens + prompt
    elif told.max_length is None:
        longest += prompt
        room = getattr(model_config, "max_position_embeddings", None)
        longest = longest if room is None else min(longest, room)
        warnings.warn(
            f"neither max_new_tokens nor max_length is set; writing up to {longest - prompt} tokens. "
            "Set max_new_tokens to say how many",
            stacklevel=4,
        )
    elif unseen:
        longest -= unseen
    if config.min_new_tokens is not None:
        shortest = config.min_new_tokens + prompt
    elif unseen:
        shortest = max(shortest - unseen, 0)
    if prompt >= longest:
        raise ValueError(
            f"the prompt has {prompt} tokens, and max_length is {longest}: nothing can be written. Set max_new_tokens, "
            "which counts new tokens only"
        )
    if shortest > longest:
        warnings.warn(f"min_length ({shortest}) is more than max_length ({longest}), which wins", stacklevel=4)
    return config.update(max_length=longest, min_length=shortest), longest - prompt
