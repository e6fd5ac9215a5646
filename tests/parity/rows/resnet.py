"""ResNet."""

import numpy as np

from tests.parity.row import Row

SIZES = dict(embedding_size=8, hidden_sizes=[16, 24, 32], depths=[2, 3, 1])
OTHER = dict(
    layer_type="basic", hidden_act="gelu", downsample_in_first_stage=True, num_channels=4, embedding_size=16,
    out_features=["stem", "stage2"],
)  # fmt: skip
INNER = dict(downsample_in_bottleneck=True, hidden_sizes=[8, 8, 32], out_indices=[1, 3])


def picture(c, rng):
    """Images of an odd size."""
    return {"pixel_values": rng.randn(2, c.num_channels, 50, 67).astype(np.float32)}


ROWS = [
    Row("ResNetModel", SIZES, None, picture, full=True),
    Row("ResNetModel", {**SIZES, **OTHER}, None, picture, "other", full=True),
    Row("ResNetModel", {**SIZES, **INNER}, None, picture, "inner stride"),
    Row("ResNetForImageClassification", {**SIZES, "num_labels": 5}, "ImageClassification", picture),
    Row("ResNetBackbone", SIZES, "Backbone", picture),
    Row("ResNetBackbone", {**SIZES, **OTHER}, "Backbone", picture, "other"),
    Row("ResNetBackbone", {**SIZES, **INNER}, "Backbone", picture, "inner stride"),
]
