"""Image feature extraction: the base model's hidden states of a picture, or its pooled output."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxformers.pipelines.image_rows import ImageOptions, ImagePipeline
from jaxformers.pipelines.rows import Row


@dataclass(frozen=True)
class ImageFeatureOptions(ImageOptions):
    """pool: the pooled output. return_tensors: an array instead of lists."""

    pool: bool | None = None
    return_tensors: str | bool | None = None
    image_processor_kwargs: Mapping[str, Any] = field(default_factory=dict)


class ImageFeatureExtraction(ImagePipeline):
    """A picture to its hidden states [1,T,D] (or [1,C,H,W] of a convolutional model), as nested lists."""

    task = "image-feature-extraction"
    heads = (None,)
    options = ImageFeatureOptions

    def prepare(self, item: Any, options: ImageFeatureOptions) -> list[Row]:
        return [self.row(self.load(item, options), **options.image_processor_kwargs)]

    def forward(self, batch: dict[str, Any], options: ImageFeatureOptions) -> Mapping[str, Any]:
        out = self.model(**batch)
        name = "pooler_output" if options.pool else "last_hidden_state"
        if getattr(out, name, None) is None:
            raise ValueError("this model has no pooled output: call it without pool=True")
        return {"features": out[name]}

    def finish(self, item: Any, rows: list[Row], outputs: list[dict[str, Any]], options: Any) -> Any:
        features = np.asarray(outputs[0]["features"])[None]
        return features if options.return_tensors else features.astype(np.float32).tolist()
