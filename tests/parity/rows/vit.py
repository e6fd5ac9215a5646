"""ViT."""

import numpy as np

from tests.parity.row import Row, image

SIZES = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, image_size=32, patch_size=8,
    encoder_stride=8,
)  # fmt: skip
OTHER = dict(
    hidden_act="relu", qkv_bias=False, layer_norm_eps=1e-3, num_channels=4, image_size=30, patch_size=6,
    encoder_stride=6, hidden_size=36, pooler_output_size=20, pooler_act="gelu", hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.2,
)  # fmt: skip


def masked_image(c, rng):
    """Images with about half of their patches masked."""
    inputs = image(c, rng)
    return {**inputs, "bool_masked_pos": rng.rand(2, (c.image_size // c.patch_size) ** 2) > 0.5}


def odd_image(c, rng):
    """Images of another size and shape than the config's."""
    return {"pixel_values": rng.randn(2, c.num_channels, 50, 70).astype(np.float32)}


def patch_mask(c, rng):
    """Images with a mask of the patches to look at."""
    mask = np.ones((2, (c.image_size // c.patch_size) ** 2 + 1), np.int64)
    mask[1, -5:] = 0
    return {**image(c, rng), "attention_mask": mask}


def wide_image(c, rng):
    """Images that are wider than high."""
    return {"pixel_values": rng.randn(2, 3, *c.image_size).astype(np.float32)}


RESIZED = {"interpolate_pos_encoding": True}

ROWS = [
    Row("ViTModel", SIZES, None, image, full=True),
    Row("ViTModel", {**SIZES, **OTHER}, None, image, "other", full=True),
    Row("ViTModel", SIZES, None, odd_image, "resized", call=RESIZED),
    Row("ViTModel", {**SIZES, **OTHER}, None, odd_image, "other resized", call=RESIZED),
    Row("ViTModel", SIZES, None, patch_mask, "masked patches"),
    Row("ViTModel", {**SIZES, "image_size": (16, 32), "patch_size": (4, 8)}, None, wide_image, "wide"),
    Row("ViTForImageClassification", {**SIZES, "num_labels": 5}, "ImageClassification", image, gradient=True),
    Row("ViTForImageClassification", {**SIZES, **OTHER}, "ImageClassification", odd_image, "other", call=RESIZED),
    Row("ViTForMaskedImageModeling", SIZES, "MaskedImageModeling", masked_image, full=True),
    Row("ViTForMaskedImageModeling", {**SIZES, **OTHER}, "MaskedImageModeling", image, "other"),
]
