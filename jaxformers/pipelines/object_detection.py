"""Object detection: what is in a picture, and where."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from jaxformers.pipelines.image_rows import ImageOptions, ImagePipeline
from jaxformers.pipelines.rows import Row
from jaxformers.pipelines.scores import names
from jaxformers.processing.images.pixels import size_of

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class DetectionOptions(ImageOptions):
    """threshold: how likely an object must be."""

    threshold: float = 0.5


class ObjectDetection(ImagePipeline):
    """A picture to [{"score", "label", "box"}], boxes in pixels of the picture."""

    task = "object-detection"
    heads = ("ObjectDetection",)
    options = DetectionOptions
    outputs = ("logits", "pred_boxes")

    def prepare(self, item: Any, options: DetectionOptions) -> list[Row]:
        picture = self.load(item, options)
        return [self.row(picture, note=size_of(picture))]

    def finish(self, item: Any, rows: list[Row], outputs: list[dict[str, Any]], options: Any) -> list[dict[str, Any]]:
        found = SimpleNamespace(**{name: np.asarray(outputs[0][name])[None] for name in self.outputs})
        (one,) = self.image_processor.post_process_object_detection(found, options.threshold, [rows[0].note])
        labels = names(self.model.config)
        return [
            {"score": float(s), "label": labels[int(n)], "box": dict(zip(CORNERS, map(int, box), strict=True))}
            for s, n, box in zip(one["scores"], one["labels"], one["boxes"], strict=True)
        ]
