"""DETR's image processor: pictures in proportion, padded to one size, with a mask of what is picture, and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxformers.core.errors import ConfigError, InputError
from jaxformers.processing.batch import to_array
from jaxformers.processing.features import BatchFeature
from jaxformers.processing.images import postprocess_detection, postprocess_segmentation
from jaxformers.processing.images.annotations import (
    COCO_DETECTION,
    check_annotations,
    normalize_boxes,
    pad_target,
    read_target,
    resize_target,
)
from jaxformers.processing.images.crop import pad_to
from jaxformers.processing.images.load import flat_images
from jaxformers.processing.images.normalize import scale_values
from jaxformers.processing.images.options import Options
from jaxformers.processing.images.pixels import as_array, size_of
from jaxformers.processing.images.processor import ImageProcessor, padded_size
from jaxformers.processing.images.resize import read_size

Target = dict[str, Any]


class DetrImageProcessor(ImageProcessor):
    """DETR: `processor(images, annotations)` gives `pixel_values`, `pixel_mask` and `labels`."""

    own_options = ("format", "do_convert_annotations")
    model_input_names = ("pixel_values", "pixel_mask")
    defaults = {
        "do_resize": True,
        "size": {"shortest_edge": 800, "longest_edge": 1333},
        "default_to_square": False,
        "resample": 2,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": (0.485, 0.456, 0.406),
        "image_std": (0.229, 0.224, 0.225),
        "do_pad": True,
        "format": COCO_DETECTION,
    }

    def __init__(self, **options: Any):
        options.setdefault("do_pad", options.pop("pad_and_return_pixel_mask", True))
        longest = options.pop("max_size", 1333) if options.get("size") is not None else None
        if isinstance(options.get("size"), int):
            options["size"] = {"shortest_edge": options["size"], "longest_edge": longest}
        options["size"] = read_size(options.get("size"), square=False) or self.defaults["size"]
        if options.get("do_convert_annotations") is None:
            normalizes = options.get("do_normalize")
            options["do_convert_annotations"] = True if normalizes is None else normalizes
        super().__init__(**options)

    def __call__(
        self,
        images: Any,
        annotations: Any = None,
        return_segmentation_masks: bool | None = None,
        masks_path: str | Path | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Return `pixel_values` and `pixel_mask` [B,H,W], and with COCO annotations the `labels` of each picture.

        masks_path: the folder of the panoptic masks. Options override the processor's. Raises InputError, ConfigError,
        and TypeError for unknown options.
        """
        chosen = self.chosen(options)
        pictures = [self.prepared(image, chosen) for image in flat_images(images)]
        targets = self.targets(pictures, annotations, chosen.format, return_segmentation_masks, masks_path)
        arrays = []
        for index, picture in enumerate(pictures):
            array = self.transform(picture, chosen)
            targets[index] = fit_target(targets[index], size_of(picture), array.shape[-2:], chosen)
            arrays.append(array)
        others: dict[str, Any] = {}
        if chosen.do_pad and arrays:
            arrays, targets, others["pixel_mask"] = pad_all(arrays, targets, chosen)
            if chosen.return_tensors:
                others["pixel_mask"] = np.stack(others["pixel_mask"])
        batch = self.gather(arrays, chosen, **others)
        if annotations is not None:
            batch["labels"] = [as_label(target, chosen.return_tensors) for target in targets]
        return batch

    preprocess = __call__

    def targets(
        self, pictures: Sequence[Any], annotations: Any, kind: Any, masks: bool | None, folder: Any
    ) -> list[Target | None]:
        """The annotations as DETR's targets, in pixels of the pictures as they came."""
        if annotations is None:
            return [None] * len(pictures)
        annotations = [annotations] if isinstance(annotations, Mapping) else list(annotations)
        if len(annotations) != len(pictures):
            raise InputError(f"found {len(annotations)} annotations for {len(pictures)} images: give one for each")
        check_annotations(annotations, kind)
        pairs = zip(annotations, pictures, strict=True)
        return [read_target(annotation, kind, size_of(picture), masks, folder) for annotation, picture in pairs]

    def transform(self, image: Any, options: Options) -> np.ndarray:
        """All steps on one prepared picture but padding; returns [C,H,W]."""
        array = self.resized(image, options) if options.do_resize else as_array(image)
        return scale_values(array, options.factor, options.mean, options.image_std)

    def resized(self, image: Any, options: Options) -> np.ndarray:
        """One prepared picture in its new size."""
        size = options.size or {}
        if size.get("shortest_edge") and not size.get("longest_edge"):
            raise ConfigError(
                f"DetrImageProcessor needs a longest_edge beside the shortest_edge, found size {dict(size)}"
            )
        return super().resized(image, options)

    post_process_object_detection = staticmethod(postprocess_detection.post_process_object_detection)
    post_process_semantic_segmentation = staticmethod(postprocess_segmentation.post_process_semantic_segmentation)
    post_process_instance_segmentation = staticmethod(postprocess_segmentation.post_process_instance_segmentation)
    post_process_panoptic_segmentation = staticmethod(postprocess_segmentation.post_process_panoptic_segmentation)


def fit_target(target: Target | None, old: tuple[int, int], new: tuple[int, int], options: Options) -> Target | None:
    """A target for its picture's new size, boxes as the model is trained on them."""
    if target is None:
        return None
    if options.do_resize:
        target = resize_target(target, old, new)
    return normalize_boxes(target, new) if options.do_convert_annotations else target


def pad_all(
    arrays: Sequence[np.ndarray], targets: Sequence[Target | None], options: Options
) -> tuple[list[np.ndarray], list[Target | None], list[np.ndarray]]:
    """Pictures in one size, their targets, and masks [H,W] that are 1 where the picture is."""
    height, width = padded_size(arrays, options)
    padded, fitted, masks = [], [], []
    for array, target in zip(arrays, targets, strict=True):
        size = array.shape[-2:]
        mask = np.zeros((height, width), np.int64)
        mask[: size[0], : size[1]] = 1
        padded.append(pad_to(array, height, width))
        masks.append(mask)
        if target is not None and size != (height, width):
            target = pad_target(target, size, (height, width), bool(options.do_convert_annotations))
        fitted.append(target)
    return padded, fitted, masks


def as_label(target: Target | None, tensor_type: str | None) -> BatchFeature:
    """A target as arrays, if that is asked for."""
    if tensor_type is None or target is None:
        return BatchFeature(target)
    out = {}
    for name, value in target.items():
        array = np.asarray(value)
        out[name] = to_array(name, array, tensor_type)
        if array.size == 0 and array.dtype.kind == "f":  # `to_array` takes what is empty for ids
            out[name] = out[name].astype(np.float32)
    return BatchFeature(out)
