"""Random inputs for a model of any kind, by what its PyTorch class reads and its config's sizes."""

import inspect
from typing import Any

import numpy as np

Inputs = dict[str, np.ndarray]
SAMPLES_PER_TOKEN = 320  # wav2vec 2.0 and its kin hear a frame in so many samples


def random_inputs(torch_model: Any, *, batch: int = 2, length: int = 16, seed: int = 0) -> Inputs:
    """Arguments for one call. length: tokens, or frames of audio; images have the config's size.

    Raises ValueError for a class whose main input is of an unknown kind.
    """
    rng = np.random.RandomState(seed)
    config = torch_model.config
    reads = set(inspect.signature(torch_model.forward).parameters)
    kind = torch_model.main_input_name
    out: Inputs = {}
    if kind == "pixel_values" or "pixel_values" in reads and hasattr(config, "vision_config"):
        out |= image(config, rng, batch)
    if kind == "input_features":
        frames = 2 * config.max_source_positions if hasattr(config, "max_source_positions") else 8 * length
        mels = getattr(config, "num_mel_bins", None) or config.feature_size
        out["input_features"] = rng.randn(batch, mels, frames).astype(np.float32)
    elif kind == "input_values":
        out["input_values"] = rng.randn(batch, SAMPLES_PER_TOKEN * (length + 1)).astype(np.float32)
    elif kind == "input_ids" or "input_ids" in reads:
        choices = (3,) if type(torch_model).__name__.endswith("MultipleChoice") else ()
        out["input_ids"] = tokens(config, rng, (batch, *choices, length))
        if images := image_tokens(torch_model, config):
            out["input_ids"] = np.concatenate([np.full((batch, images), image_token(config)), out["input_ids"]], axis=1)
        if "attention_mask" in reads:
            out["attention_mask"] = np.ones_like(out["input_ids"])
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in reads:
        out["decoder_input_ids"] = tokens(config, rng, (batch, max(length // 2, 1)))
    signature = inspect.signature(torch_model.forward).parameters.values()
    needed = [p.name for p in signature if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if unknown := [name for name in (kind, *needed) if name not in out]:
        what = ", ".join(dict.fromkeys(unknown))
        raise ValueError(f"{type(torch_model).__name__} reads {what}, for which there is no maker of random inputs")
    return out


def tokens(config: Any, rng: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
    """Random ids, none of them special: neither padding nor the end nor an image's place."""
    text = config.get_text_config()
    names = ("pad_token_id", "eos_token_id", "bos_token_id", "image_token_id", "image_token_index")
    found = [getattr(c, name, None) for c in (config, text) for name in names]
    special = {i for value in found for i in (value if isinstance(value, (list, tuple)) else [value])}
    allowed = np.array([i for i in range(3, text.vocab_size) if i not in special])
    ids = rng.choice(allowed, shape)
    if (end := getattr(text, "eos_token_id", None)) is not None and hasattr(config, "vision_config"):
        if isinstance(end, int) and end < text.vocab_size:
            ids[..., -1] = end  # CLIP reads a text's embedding where it ends
    return ids


def image(config: Any, rng: np.random.RandomState, batch: int) -> Inputs:
    """Pixel values [B,C,H,W]."""
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    return {"pixel_values": rng.randn(batch, getattr(vision, "num_channels", 3), height, width).astype(np.float32)}


def image_token(config: Any) -> int | None:
    """The id that stands where an image's features go; None for models without one."""
    token = getattr(config, "image_token_id", None)
    return getattr(config, "image_token_index", None) if token is None else token


def image_tokens(torch_model: Any, config: Any) -> int:
    """How many of those tokens one image needs."""
    if image_token(config) is None or not hasattr(config, "vision_config"):
        return 0
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    return patches + (getattr(config, "vision_feature_select_strategy", "default") == "full")
