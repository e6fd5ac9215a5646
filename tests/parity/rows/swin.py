"""Swin."""

import numpy as np

from tests.parity.row import Row, image

SIZES = dict(image_size=32, patch_size=2, embed_dim=8, depths=[2, 2, 2], num_heads=[2, 2, 4], window_size=4,
             encoder_stride=8)  # fmt: skip
OTHER = dict(
    image_size=30, patch_size=3, num_channels=4, window_size=3, depths=[3, 1], num_heads=[4, 2], mlp_ratio=1.5,
    qkv_bias=False, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, drop_path_rate=0.0, hidden_act="relu",
    use_absolute_embeddings=True, layer_norm_eps=1e-3, encoder_stride=6, out_features=["stem", "stage1"],
)  # fmt: skip


def masked_image(c, rng):
    """Images with about half of their patches masked."""
    inputs = image(c, rng)
    return {**inputs, "bool_masked_pos": rng.rand(2, (c.image_size // c.patch_size) ** 2) > 0.5}


def odd_image(c, rng):
    """Images whose sizes divide neither into patches nor into windows."""
    return {"pixel_values": rng.randn(2, c.num_channels, 49, 71).astype(np.float32)}


def even_image(c, rng):
    """Images of another size and shape than the config's, in whole patches."""
    return {"pixel_values": rng.randn(2, c.num_channels, 48, 66).astype(np.float32)}


RESIZED = {"interpolate_pos_encoding": True}

ROWS = [
    Row("SwinModel", SIZES, None, image, full=True),
    Row("SwinModel", {**SIZES, **OTHER}, None, image, "other", full=True),
    Row("SwinModel", SIZES, None, odd_image, "odd"),
    Row("SwinModel", {**SIZES, **OTHER}, None, even_image, "resized", call=RESIZED),
    Row("SwinForImageClassification", {**SIZES, "num_labels": 5}, "ImageClassification", image, gradient=True),
    Row("SwinForImageClassification", {**SIZES, **OTHER}, "ImageClassification", image, "other"),
    Row("SwinForMaskedImageModeling", SIZES, "MaskedImageModeling", masked_image),
    Row("SwinForMaskedImageModeling", {**SIZES, **OTHER}, "MaskedImageModeling", masked_image, "other"),
    Row("SwinBackbone", {**SIZES, "out_indices": [0, 1, 3]}, "Backbone", odd_image),
    Row("SwinBackbone", {**SIZES, **OTHER}, "Backbone", image, "other"),
]
