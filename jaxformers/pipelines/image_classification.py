"""Image classification: the likeliest labels of a picture."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxformers.pipelines.image_rows import ImageOptions, ImagePipeline
from jaxformers.pipelines.rows import Row
from jaxformers.pipelines.scores import apply, names, ranked, usual_function


@dataclass(frozen=True)
class ImageClassificationOptions(ImageOptions):
    """top_k: how many labels, None for all. function_to_apply: "sigmoid", "softmax" or "none"."""

    top_k: int | None = 5
    function_to_apply: str | None = None


class ImageClassification(ImagePipeline):
    """A picture to [{"label", "score"}], best first."""

    task = "image-classification"
    heads = ("ImageClassification",)
    options = ImageClassificationOptions

    def finish(self, item: Any, rows: list[Row], outputs: list[dict[str, Any]], options: Any) -> list[dict[str, Any]]:
        logits = np.asarray(outputs[0]["logits"], np.float32)
        scores = apply(options.function_to_apply or usual_function(self.model.config), logits)
        return ranked(scores, names(self.model.config), options.top_k)
