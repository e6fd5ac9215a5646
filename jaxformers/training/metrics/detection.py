"""Mean average precision of detected boxes, by pycocotools."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxformers.core.extras import require
from jaxformers.training.metrics.prediction import pair

# The twelve numbers of COCO's summary, in its order.
NAMES = (
    "map", "map_50", "map_75", "map_small", "map_medium", "map_large",
    "mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large",
)  # fmt: skip


@dataclass(frozen=True)
class MeanAveragePrecision:
    """COCO's summary; NaN where it has nothing to say (no objects of a size).

    Predictions, one for each image: `{"boxes" [n,4], "scores" [n], "labels" [n]}`; references `{"boxes", "labels"}`,
    with `"iscrowd"` and `"area"` if known. Boxes are x0, y0, x1, y1 in pixels, as post-processing gives them.
    """

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, float]:
        predictions, references = pair(predictions, references)
        if len(predictions) != len(references):
            raise ValueError(f"{len(predictions)} images have predictions, {len(references)} references")
        coco = require("pycocotools.coco", extra="metrics", purpose="mean average precision")
        evaluation = require("pycocotools.cocoeval", extra="metrics", purpose="mean average precision")
        with contextlib.redirect_stdout(io.StringIO()):  # it prints tables
            truth, found = coco.COCO(), coco.COCO()
            truth.dataset, found.dataset = described(predictions, references)
            truth.createIndex()
            found.createIndex()
            run = evaluation.COCOeval(truth, found, "bbox")
            run.evaluate()
            run.accumulate()
            run.summarize()
        return {name: float(x) if x >= 0 else float("nan") for name, x in zip(NAMES, run.stats, strict=True)}


def described(predictions: Sequence[Mapping], references: Sequence[Mapping]) -> tuple[dict, dict]:
    """Both sides in COCO's form."""
    kinds = sorted({int(label) for side in (predictions, references) for image in side for label in image["labels"]})
    about = {"images": [{"id": i + 1} for i in range(len(references))], "categories": [{"id": kind} for kind in kinds]}
    return {**about, "annotations": annotations(references)}, {**about, "annotations": annotations(predictions)}


def annotations(images: Sequence[Mapping]) -> list[dict[str, Any]]:
    """The boxes of one side; ids begin at 1, since pycocotools takes a match with 0 for none."""
    out = []
    for number, image in enumerate(images, 1):
        boxes = np.asarray(image["boxes"], np.float64).reshape(-1, 4)
        for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
            one = {"id": len(out) + 1, "image_id": number, "category_id": int(image["labels"][i])}
            one |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            known = (("scores", "score"), ("area", "area"), ("iscrowd", "iscrowd"))
            out.append(one | {theirs: np.asarray(image[ours])[i].item() for ours, theirs in known if ours in image})
    return out
