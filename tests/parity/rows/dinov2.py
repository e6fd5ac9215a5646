"""DINOv2."""

import numpy as np

from tests.parity.row import Row, image

SIZES = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=4, mlp_ratio=2, image_size=32, patch_size=8,
    layerscale_value=0.7,
)  # fmt: skip
OTHER = dict(
    hidden_act="relu", qkv_bias=False, layer_norm_eps=1e-3, num_channels=4, image_size=30, patch_size=6, hidden_size=36,
    hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.2, drop_path_rate=0.3, use_swiglu_ffn=True, mlp_ratio=4,
    use_mask_token=False, apply_layernorm=False, reshape_hidden_states=False, out_features=["stem", "stage2"],
)  # fmt: skip


def masked_image(c, rng):
    """Images with about half of their patches masked."""
    inputs = image(c, rng)
    return {**inputs, "bool_masked_pos": rng.rand(2, (c.image_size // c.patch_size) ** 2) > 0.5}


def odd_image(c, rng):
    """Images of another size and shape than the config's."""
    return {"pixel_values": rng.randn(2, c.num_channels, 50, 70).astype(np.float32)}


ROWS = [
    Row("Dinov2Model", SIZES, None, masked_image, full=True, gradient=True),
    Row("Dinov2Model", {**SIZES, **OTHER}, None, odd_image, "other", full=True),
    Row("Dinov2ForImageClassification", {**SIZES, "num_labels": 5}, "ImageClassification", odd_image),
    Row("Dinov2Backbone", {**SIZES, "out_indices": [0, 2, 3]}, "Backbone", image),
    Row("Dinov2Backbone", {**SIZES, "apply_layernorm": False}, "Backbone", odd_image, "unnormed"),
    Row("Dinov2Backbone", {**SIZES, **OTHER}, "Backbone", odd_image, "other"),
]
