"""DETR."""

import numpy as np

from tests.parity.row import Row

RESNET = dict(
    model_type="resnet", embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 2, 1, 1], layer_type="basic",
    out_features=["stage1", "stage2", "stage3", "stage4"],
)  # fmt: skip
CONVNEXT = dict(
    model_type="convnext", hidden_sizes=[8, 16, 24], depths=[1, 1, 1], num_stages=3, layer_scale_init_value=0.5,
    out_indices=[1, 2, 3],
)  # fmt: skip
LAST = ["stage2", "stage3", "stage4"]
SIZES = dict(
    use_timm_backbone=False, backbone_config=RESNET, d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=48,
    decoder_ffn_dim=40, encoder_attention_heads=8, decoder_attention_heads=4, num_queries=5,
)  # fmt: skip
OTHER = dict(
    backbone_config={**RESNET, "layer_type": "bottleneck", "num_channels": 4, "out_features": LAST},
    num_channels=4, position_embedding_type="learned", auxiliary_loss=True, activation_function="gelu", dropout=0.2,
    attention_dropout=0.1, activation_dropout=0.1, decoder_layers=3, encoder_layers=1,
)  # fmt: skip


def padded(c, rng):
    """Two images, the second with padding right and below."""
    mask = np.ones((2, 96, 139), np.int64)
    mask[1, 70:] = 0
    mask[1, :, 100:] = 0
    return {"pixel_values": rng.randn(2, c.num_channels, 96, 139).astype(np.float32), "pixel_mask": mask}


def plain(c, rng):
    """Two images without a mask."""
    return {"pixel_values": rng.randn(2, c.num_channels, 96, 80).astype(np.float32)}


def queries(c, rng):
    """Images with queries of the caller's own, some of them hidden."""
    mask = np.ones((2, c.num_queries), np.int64)
    mask[1, -2:] = 0
    own = rng.randn(2, c.num_queries, c.d_model).astype(np.float32)
    return {**padded(c, rng), "decoder_inputs_embeds": own, "decoder_attention_mask": mask}


def features(c, rng):
    """Features in the place of images."""
    return {"inputs_embeds": rng.randn(2, 16, c.d_model).astype(np.float32)}


ROWS = [
    Row("DetrModel", SIZES, None, padded, full=True),
    Row("DetrModel", {**SIZES, **OTHER}, None, padded, "other", full=True),
    Row("DetrModel", {**SIZES, "backbone_config": CONVNEXT}, None, queries, "convnext"),
    Row("DetrModel", SIZES, None, features, "features"),
    Row("DetrForObjectDetection", {**SIZES, "num_labels": 7}, "ObjectDetection", plain),
    Row("DetrForObjectDetection", {**SIZES, **OTHER}, "ObjectDetection", padded, "other"),
    Row("DetrForSegmentation", {**SIZES, "num_labels": 7}, "ImageSegmentation", padded),
    Row("DetrForSegmentation", {**SIZES, **OTHER}, "UniversalSegmentation", plain, "other"),
]
