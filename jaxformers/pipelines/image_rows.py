"""Pictures as rows: what an image processor gives, without its batch axis."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxformers.pipelines.pipeline import Options, Pipeline
from jaxformers.pipelines.rows import Row
from jaxformers.processing.images.load import load_image

PICTURES = "a path, URL, data URL, bytes, Pillow image or array"


@dataclass(frozen=True)
class ImageOptions(Options):
    """timeout: seconds to wait for a picture from the web."""

    timeout: float | None = None


class ImagePipeline(Pipeline):
    """A pipeline of pictures."""

    parts = ("image_processor",)
    options = ImageOptions

    def is_one(self, inputs: Any) -> bool:
        """An array is one picture, as it is for image processors; a list or an iterator holds several."""
        return isinstance(inputs, np.ndarray) or hasattr(inputs, "size") or super().is_one(inputs)

    def load(self, item: Any, options: Any) -> Any:
        """A picture ready for the image processor."""
        return item if isinstance(item, np.ndarray) else load_image(item, timeout=options.timeout)

    def prepare(self, item: Any, options: Any) -> list[Row]:
        return [self.row(self.load(item, options))]

    def row(self, picture: Any, note: Any = None, **chosen: Any) -> Row:
        """One picture as the model reads it."""
        given = self.image_processor(images=[picture], return_tensors="np", **chosen)
        return Row({k: np.asarray(v)[0] for k, v in given.items() if k in ("pixel_values", "pixel_mask")}, note)
