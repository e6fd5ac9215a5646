"""The image processors by transformers' names, and which of them a model type has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxformers.core.errors import ConfigError
from jaxformers.processing.images.crop import center_crop, pad_to_square
from jaxformers.processing.images.detr import DetrImageProcessor
from jaxformers.processing.images.options import Options
from jaxformers.processing.images.pixels import as_array, size_of
from jaxformers.processing.images.processor import ImageProcessor
from jaxformers.processing.images.resize import resize, to_shortest

BILINEAR, BICUBIC = 2, 3  # Pillow's numbers
HALVES = (0.5, 0.5, 0.5)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SCALED = {"do_resize": True, "do_rescale": True, "do_normalize": True}
CROPPED = {
    **SCALED,
    "resample": BICUBIC,
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
    "size": {"shortest_edge": 224},
    "default_to_square": False,
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
}
SQUARE = {**SCALED, "image_mean": HALVES, "image_std": HALVES, "size": {"height": 224, "width": 224}}


class ViTImageProcessor(ImageProcessor):
    """Vision transformers and Swin: a square, values in [-1, 1]."""

    defaults = {**SQUARE, "resample": BILINEAR}


class BitImageProcessor(ImageProcessor):
    """DINOv2: the shortest edge, then the middle."""

    defaults = CROPPED


class CLIPImageProcessor(ImageProcessor):
    """CLIP: the shortest edge, then the middle."""

    defaults = CROPPED

    def __init__(self, **options: Any):
        if options.pop("use_square_size", None):
            options["size"] = {"height": 224, "width": 224}
        super().__init__(**options)


class SiglipImageProcessor(ImageProcessor):
    """SigLIP: a square, values in [-1, 1]."""

    defaults = {**SQUARE, "resample": BICUBIC, "default_to_square": False, "do_convert_rgb": True}


class LlavaImageProcessor(ImageProcessor):
    """LLaVA: as CLIP; `do_pad` makes a square in the mean's colour first, so that nothing is cropped."""

    defaults = {**CROPPED, "do_pad": False}

    def transform(self, image: Any, options: Options) -> np.ndarray:
        """All steps on one prepared picture; returns [C,H,W]."""
        if options.do_pad:
            image, mean = as_array(image), options.image_mean
            mean = [mean] * len(image) if isinstance(mean, int | float) else mean
            image = pad_to_square(image, [int(x * 255) for x in mean] if mean is not None else 0)
        return super().transform(image, options)

    def padded(self, arrays: list[np.ndarray], options: Options) -> list[np.ndarray]:
        """The pictures as they are: they were padded first."""
        return arrays


class ConvNextImageProcessor(ImageProcessor):
    """ConvNeXt and ResNet: below 384 a larger picture and its middle, from 384 a square, squeezed."""

    own_options = ("crop_pct",)
    defaults = {
        **SQUARE,
        "resample": BICUBIC,
        "size": {"shortest_edge": 384},
        "default_to_square": False,
        "crop_pct": 224 / 256,
    }

    def resized(self, image: Any, options: Options) -> np.ndarray:
        """One prepared picture in its new size; `crop_pct` is the share that the crop keeps of each edge."""
        edge, resample = (options.size or {}).get("shortest_edge"), options.resample or 0
        if not edge:
            raise ConfigError(f"ConvNextImageProcessor resizes to a shortest_edge, found size {options.size}")
        if edge >= 384:
            return resize(image, (edge, edge), resample)
        if not options.crop_pct:
            raise ConfigError("ConvNextImageProcessor needs a crop_pct for a shortest_edge below 384: 0.875 is usual")
        larger = resize(image, to_shortest(*size_of(image), int(edge / options.crop_pct)), resample)
        return center_crop(larger, edge, edge)

    def padded(self, arrays: list[np.ndarray], options: Options) -> list[np.ndarray]:
        """The pictures as they are: this processor pads none."""
        return arrays


PROCESSORS: Mapping[str, type[ImageProcessor]] = {
    kind.__name__: kind
    for kind in (
        *(ViTImageProcessor, BitImageProcessor, ConvNextImageProcessor, CLIPImageProcessor, SiglipImageProcessor),
        *(LlavaImageProcessor, DetrImageProcessor),
    )
}
# For files that do not name their processor.
BY_TYPE = {
    "vit": "ViTImageProcessor",
    "swin": "ViTImageProcessor",
    "dinov2": "BitImageProcessor",
    "convnext": "ConvNextImageProcessor",
    "resnet": "ConvNextImageProcessor",
    "detr": "DetrImageProcessor",
    "clip": "CLIPImageProcessor",
    "clip_vision_model": "CLIPImageProcessor",
    "siglip": "SiglipImageProcessor",
    "siglip_vision_model": "SiglipImageProcessor",
    "llava": "LlavaImageProcessor",
}


def processor_name(raw: Mapping[str, Any]) -> str | None:
    """The name that a preprocessor_config.json gives its image processor, spelled as now; None if it gives none."""
    name = raw.get("image_processor_type")
    if name is None and raw.get("feature_extractor_type"):
        name = str(raw["feature_extractor_type"]).replace("FeatureExtractor", "ImageProcessor")
    return None if name is None else str(name).removesuffix("Fast").removesuffix("Pil")


def build_processor(raw: Mapping[str, Any], model_type: str | None, **overrides: Any) -> ImageProcessor:
    """Build an image processor from the contents of its file. Raises ConfigError for one that is not here."""
    name = processor_name(raw) or BY_TYPE.get(model_type or "")
    if name is None or name not in PROCESSORS:
        found = f"{name!r}" if name else f"no processor's name, and the model type {model_type!r}"
        raise ConfigError(
            f"found {found}: there are image processors {', '.join(PROCESSORS)}, for {', '.join(BY_TYPE)}"
        )
    return PROCESSORS[name].from_dict(raw, **overrides)
