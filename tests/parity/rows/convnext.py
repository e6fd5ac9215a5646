"""ConvNeXt."""

import numpy as np

from tests.parity.row import Row

SIZES = dict(hidden_sizes=[16, 24, 32], depths=[2, 1, 3], num_stages=3, layer_scale_init_value=0.5)
OTHER = dict(
    hidden_act="relu", patch_size=3, num_channels=4, layer_scale_init_value=0.0, layer_norm_eps=1e-2,
    drop_path_rate=0.4, out_features=["stem", "stage2"],
)  # fmt: skip


def picture(c, rng):
    """Images of an odd size."""
    return {"pixel_values": rng.randn(2, c.num_channels, 50, 67).astype(np.float32)}


ROWS = [
    Row("ConvNextModel", SIZES, None, picture, full=True),
    Row("ConvNextModel", {**SIZES, **OTHER}, None, picture, "other", full=True),
    Row("ConvNextForImageClassification", {**SIZES, "num_labels": 5}, "ImageClassification", picture, gradient=True),
    Row("ConvNextForImageClassification", {**SIZES, **OTHER}, "ImageClassification", picture, "other"),
    Row("ConvNextBackbone", SIZES, "Backbone", picture),
    Row("ConvNextBackbone", {**SIZES, **OTHER}, "Backbone", picture, "other"),
]
