"""CLIP and its two towers."""

import numpy as np

from tests.parity.row import BATCH, LENGTH, Inputs, Row, image

TEXT = dict(
    vocab_size=99, hidden_size=48, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4,
    max_position_embeddings=20, projection_dim=24, eos_token_id=98,
)  # fmt: skip
OTHER_TEXT = dict(
    vocab_size=77, hidden_size=36, intermediate_size=50, num_hidden_layers=2, num_attention_heads=3,
    max_position_embeddings=13, hidden_act="gelu", layer_norm_eps=1e-3, attention_dropout=0.2, eos_token_id=2,
    projection_dim=20, initializer_factor=0.5, initializer_range=0.1,
)  # fmt: skip
IMAGE = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=8,
    projection_dim=24,
)  # fmt: skip
OTHER_IMAGE = dict(
    hidden_size=36, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6, image_size=30, patch_size=6,
    num_channels=4, hidden_act="gelu_new", layer_norm_eps=1e-3, attention_dropout=0.1, projection_dim=20,
)  # fmt: skip
BOTH = dict(text_config=TEXT, vision_config=IMAGE, projection_dim=24)
OTHER_BOTH = dict(
    text_config=OTHER_TEXT, vision_config=OTHER_IMAGE, projection_dim=20, logit_scale_init_value=1.5,
    initializer_factor=0.5,
)  # fmt: skip
RESIZED = {"interpolate_pos_encoding": True}


def caption(c, rng: np.random.RandomState) -> Inputs:
    """Texts with two end-of-text tokens each: the first decides, unless the highest id does."""
    c = c.get_text_config()
    ids = rng.randint(3, c.vocab_size - 1, (BATCH, LENGTH))
    ids[:, 5] = ids[:, 6] = c.vocab_size - 1
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def placed_caption(c, rng: np.random.RandomState) -> Inputs:
    """Texts with positions out of order and no mask."""
    places = np.stack([rng.permutation(c.max_position_embeddings)[:LENGTH] for _ in range(BATCH)])
    return {"input_ids": caption(c, rng)["input_ids"], "position_ids": places}


def pair(c, rng: np.random.RandomState) -> Inputs:
    """Two captions and two images."""
    return {**caption(c, rng), **image(c.vision_config, rng)}


def odd_image(c, rng: np.random.RandomState) -> Inputs:
    """Images of another size and shape than the config's."""
    return {"pixel_values": rng.randn(BATCH, c.num_channels, 50, 70).astype(np.float32)}


def odd_pair(c, rng: np.random.RandomState) -> Inputs:
    """Captions and images of another size."""
    return {**caption(c, rng), **odd_image(c.vision_config, rng)}


def own_image(c, rng: np.random.RandomState) -> Inputs:
    """Images of the vision tower's size."""
    return image(c.vision_config, rng)


ROWS = [
    Row("CLIPTextModel", TEXT, None, caption, full=True, gradient=True),
    Row("CLIPTextModel", OTHER_TEXT, None, caption, "other", full=True),
    Row("CLIPTextModel", TEXT, "TextEncoding", placed_caption, "positions"),
    Row("CLIPVisionModel", IMAGE, None, image, full=True, gradient=True),
    Row("CLIPVisionModel", OTHER_IMAGE, None, image, "other", full=True),
    Row("CLIPVisionModel", IMAGE, None, odd_image, "resized", call=RESIZED),
    Row("CLIPModel", BOTH, None, pair, full=True),
    Row("CLIPModel", OTHER_BOTH, "ZeroShotImageClassification", pair, "other", full=True),
    Row("CLIPModel", BOTH, None, odd_pair, "resized", call=RESIZED),
    Row("CLIPForImageClassification", {**BOTH, "num_labels": 5}, "ImageClassification", own_image, full=True),
    Row("CLIPForImageClassification", {**OTHER_BOTH, "num_labels": 3}, "ImageClassification", own_image, "other"),
]
