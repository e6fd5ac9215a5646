"""SigLIP and its two towers."""

import numpy as np

from tests.parity.row import BATCH, LENGTH, Inputs, Row, image, text

TEXT = dict(
    vocab_size=99, hidden_size=48, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4,
    max_position_embeddings=20,
)  # fmt: skip
OTHER_TEXT = dict(
    vocab_size=77, hidden_size=30, intermediate_size=50, num_hidden_layers=2, num_attention_heads=3,
    max_position_embeddings=13, hidden_act="relu", layer_norm_eps=1e-3, attention_dropout=0.2, projection_size=36,
)  # fmt: skip
IMAGE = dict(
    hidden_size=48, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=8
)
OTHER_IMAGE = dict(
    hidden_size=36, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6, image_size=33, patch_size=6,
    num_channels=4, hidden_act="quick_gelu", layer_norm_eps=1e-3, attention_dropout=0.1,
)  # fmt: skip
HEADLESS = {**OTHER_IMAGE, "vision_use_head": False}
BOTH = dict(text_config=TEXT, vision_config=IMAGE)
OTHER_BOTH = dict(text_config=OTHER_TEXT, vision_config=OTHER_IMAGE, initializer_factor=0.5)
RESIZED = {"interpolate_pos_encoding": True}


def placed_text(c, rng: np.random.RandomState) -> Inputs:
    """Texts with positions out of order and no mask."""
    places = np.stack([rng.permutation(c.max_position_embeddings)[:LENGTH] for _ in range(BATCH)])
    return {"input_ids": text(c, rng)["input_ids"], "position_ids": places}


def pair(c, rng: np.random.RandomState) -> Inputs:
    """Two texts and two images."""
    return {**text(c, rng), **image(c.vision_config, rng)}


def odd_image(c, rng: np.random.RandomState) -> Inputs:
    """Images of another size and shape than the config's."""
    c = getattr(c, "vision_config", c)
    return {"pixel_values": rng.randn(BATCH, c.num_channels, 50, 70).astype(np.float32)}


def own_image(c, rng: np.random.RandomState) -> Inputs:
    """Images of the vision tower's size."""
    return image(c.vision_config, rng)


ROWS = [
    Row("SiglipTextModel", TEXT, None, text, full=True, gradient=True),
    Row("SiglipTextModel", OTHER_TEXT, None, text, "other", full=True),
    Row("SiglipTextModel", TEXT, None, placed_text, "positions"),
    Row("SiglipVisionModel", IMAGE, None, image, full=True, gradient=True),
    Row("SiglipVisionModel", OTHER_IMAGE, None, image, "other", full=True),
    Row("SiglipVisionModel", HEADLESS, None, odd_image, "headless", full=True, call=RESIZED),
    Row("SiglipVisionModel", IMAGE, None, odd_image, "resized", call=RESIZED),
    Row("SiglipModel", BOTH, None, pair, full=True),
    Row("SiglipModel", OTHER_BOTH, "ZeroShotImageClassification", pair, "other", full=True),
    Row("SiglipForImageClassification", {**BOTH, "num_labels": 5}, "ImageClassification", own_image, full=True),
    Row(
        "SiglipForImageClassification",
        {**OTHER_BOTH, "num_labels": 3},
        "ImageClassification",
        odd_image,
        "other",
        call=RESIZED,
    ),
]
