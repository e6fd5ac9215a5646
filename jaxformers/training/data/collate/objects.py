"""Images and the objects in them, for models that detect or outline them (DETR)."""

from dataclasses import dataclass

import numpy as np

from jaxformers.training.data.collate.arrays import as_array
from jaxformers.training.data.collate.padding import Rows, label_name, need
from jaxformers.training.data.rows import BadField


@dataclass(frozen=True)
class DataCollatorForObjectDetection:
    """Rows of pixel_values [C,H,W], perhaps pixel_mask [H,W], and labels as an image processor makes them.

    labels: class_labels [n], boxes [n,4], perhaps masks [n,H,W]; there is room for `room` objects in each image, unused
    places have class -100. Images of unequal size are filled up at the bottom and the right, which the mask tells; with
    `size` (height, width) all batches have one shape.
    """

    room: int = 100
    size: tuple[int, int] | None = None

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        need(rows, "pixel_values")
        images = [as_array(place, "pixel_values", row["pixel_values"]) for place, row in enumerate(rows)]
        height, width = self.size or tuple(np.max([image.shape[1:] for image in images], axis=0).tolist())
        batch = {
            "pixel_values": np.zeros((len(rows), images[0].shape[0], height, width), np.float32),
            "pixel_mask": np.zeros((len(rows), height, width), np.int64),
        }
        for place, (row, image) in enumerate(zip(rows, images, strict=True)):
            h, w = image.shape[1:]
            if h > height or w > width:
                raise BadField(place, "pixel_values", f"has {h} by {w} pixels, more than size={self.size}")
            batch["pixel_values"][place, :, :h, :w] = image
            batch["pixel_mask"][place, :h, :w] = 1 if row.get("pixel_mask") is None else row["pixel_mask"]
        name = label_name(rows)
        return batch if name is None else batch | self.objects(rows, name)

    def objects(self, rows: Rows, name: str) -> dict[str, np.ndarray]:
        """The labels of all images. Raises BadField for an image with too many objects."""
        from jaxformers.training.losses.matching import pad_objects

        need(rows, name)
        for place, row in enumerate(rows):
            if len(row[name]["class_labels"]) > self.room:
                found = len(row[name]["class_labels"])
                raise BadField(place, name, f"has {found} objects, there is room for {self.room}: raise room=")
        return pad_objects([row[name] for row in rows], self.room)
