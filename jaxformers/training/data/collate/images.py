"""Images and their classes, perhaps mixed: two images of a batch become one, and so do their labels."""

from dataclasses import dataclass

import numpy as np

from jaxformers.training.data.collate.arrays import stack
from jaxformers.training.data.collate.padding import Rows, label_name, need
from jaxformers.training.data.draws import Draws


@dataclass(frozen=True)
class DataCollatorForImageClassification:
    """Rows of pixel_values [C,H,W] and a class; mixed or smoothed, labels become soft_labels, shares [rows, classes].

    mixup, cutmix: the parameter of the Beta distribution of each (arXiv:1710.09412, arXiv:1905.04899), 0 for none; with
    both, a row takes one of them at random. classes: how many there are; needed for mixing and smoothing.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    classes: int | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.classes is None and (self.mixup or self.cutmix or self.label_smoothing):
            raise ValueError("mixing and smoothing make labels shares of all classes: say how many with classes=")

    def __call__(self, rows: Rows, draws: Draws | None = None) -> dict[str, np.ndarray]:
        need(rows, "pixel_values")
        batch = {"pixel_values": stack(rows, "pixel_values").astype(np.float32)}
        name = label_name(rows)
        if name is None:
            return batch
        labels = stack(rows, name)
        if self.classes is None:
            return {**batch, "labels": labels}
        shares = np.eye(self.classes, dtype=np.float32)[labels]
        batch["soft_labels"] = shares * (1 - self.label_smoothing) + self.label_smoothing / self.classes
        return self.mix(batch, draws or Draws.fresh(len(rows))) if self.mixup or self.cutmix else batch

    def mix(self, batch: dict[str, np.ndarray], draws: Draws) -> dict[str, np.ndarray]:
        """Mix every image with another one of the batch."""
        images, labels = batch["pixel_values"], batch["soft_labels"]
        partners = draws.batch().permutation(len(images))
        pixels, shares = images.copy(), labels.copy()
        for place, partner in enumerate(partners):
            draw = draws.row(place)
            blend = self.mixup and (not self.cutmix or draw.random() < 0.5)
            kept = draw.beta(self.mixup, self.mixup) if blend else draw.beta(self.cutmix, self.cutmix)
            if blend:
                pixels[place] = kept * images[place] + (1 - kept) * images[partner]
            else:
                rows, columns = box(images.shape[2:], kept, draw)
                pixels[place, :, rows, columns] = images[partner, :, rows, columns]
                kept = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / images[0, 0].size
            shares[place] = kept * labels[place] + (1 - kept) * labels[partner]
        return {"pixel_values": pixels, "soft_labels": shares}


def box(size: tuple[int, ...], kept: float, draw: np.random.Generator) -> tuple[slice, slice]:
    """A box anywhere on the image, cut at its edges, that leaves a share `kept` of it when it is not cut."""
    out = []
    for length in size:
        half, center = length * np.sqrt(1 - kept) / 2, draw.integers(length)
        out.append(slice(max(int(center - half), 0), min(int(center + half), length)))
    return out[0], out[1]
