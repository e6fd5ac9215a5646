"""LLaVA over several language models and vision towers."""

import numpy as np

from tests.parity.row import BATCH, LENGTH, Inputs, Row

IMAGE_TOKEN = 90
LLAMA = dict(
    model_type="llama", vocab_size=99, hidden_size=48, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0,
)  # fmt: skip
QWEN = dict(
    model_type="qwen2", vocab_size=95, hidden_size=36, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
    num_key_value_heads=1, tie_word_embeddings=True, max_position_embeddings=64,
)  # fmt: skip
MISTRAL = dict(
    model_type="mistral", vocab_size=99, hidden_size=32, intermediate_size=40, num_hidden_layers=2, sliding_window=4,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, head_dim=12,
)  # fmt: skip
CLIP = dict(
    model_type="clip_vision_model", hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    image_size=8, patch_size=8,
)  # fmt: skip
SIGLIP = dict(
    model_type="siglip_vision_model", hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
    image_size=6, patch_size=6,
)  # fmt: skip
SIZES = dict(text_config=LLAMA, vision_config=CLIP, image_token_index=IMAGE_TOKEN, image_seq_length=1)
OTHER = dict(
    text_config=QWEN, vision_config=CLIP, image_token_index=IMAGE_TOKEN, projector_hidden_act="relu",
    vision_feature_layer=[0, -1, 2], vision_feature_select_strategy="full", multimodal_projector_bias=False,
)  # fmt: skip
MAPS = dict(
    text_config=MISTRAL, vision_config=SIGLIP, image_token_index=IMAGE_TOKEN, vision_feature_layer=-1,
    vision_feature_select_strategy="full",
)  # fmt: skip
WIDE = {**MAPS, "vision_config": {**SIGLIP, "image_size": 12}}


def places(c) -> int:
    """How many tokens an image takes."""
    count = (c.vision_config.image_size // c.vision_config.patch_size) ** 2
    first = c.vision_config.model_type == "clip_vision_model"
    return count + first - (c.vision_feature_select_strategy == "default")


def images_in_text(c, rng: np.random.RandomState) -> Inputs:
    """An image early in each text."""
    ids = rng.randint(3, IMAGE_TOKEN, (BATCH, LENGTH))
    ids[0, 1 : 1 + places(c)] = ids[1, : places(c)] = IMAGE_TOKEN
    size = c.vision_config.image_size
    pixels = rng.randn(BATCH, 3, size, size).astype(np.float32)
    return {"input_ids": ids, "pixel_values": pixels, "attention_mask": np.ones_like(ids)}


def uneven_images(c, rng: np.random.RandomState) -> Inputs:
    """Both images in the first text, apart from each other."""
    inputs = images_in_text(c, rng)
    ids = rng.randint(3, IMAGE_TOKEN, (BATCH, LENGTH))
    ids[0, 2 : 2 + places(c)] = ids[0, LENGTH - places(c) :] = IMAGE_TOKEN
    return {**inputs, "input_ids": ids}


def text_alone(c, rng: np.random.RandomState) -> Inputs:
    """Text without images, its positions shifted."""
    ids = rng.randint(3, IMAGE_TOKEN, (BATCH, LENGTH))
    return {"input_ids": ids, "position_ids": np.arange(LENGTH)[None] + 3}


def embedded_text(c, rng: np.random.RandomState) -> Inputs:
    """Embeddings instead of ids."""
    return {"inputs_embeds": rng.randn(BATCH, LENGTH, c.text_config.hidden_size).astype(np.float32)}


LM, TASK = "LlavaForConditionalGeneration", "ImageTextToText"
ROWS = [
    Row(LM, SIZES, TASK, images_in_text, full=True, cached=True),
    Row(LM, OTHER, "PreTraining", images_in_text, "other", full=True, cached=True, gradient=True),
    Row(LM, MAPS, "MultimodalLM", images_in_text, "siglip and mistral", full=True, cached=True),
    Row(LM, WIDE, TASK, uneven_images, "uneven"),
    Row(LM, SIZES, TASK, text_alone, "text"),
    Row("LlavaModel", SIZES, None, images_in_text, full=True),
    Row("LlavaModel", OTHER, None, uneven_images, "other", full=True),
    Row("LlavaModel", MAPS, None, embedded_text, "embeddings"),
]
