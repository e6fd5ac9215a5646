"""The image processor that most model types share: pictures in, `pixel_values` out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxformers.core.config import read_json
from jaxformers.core.errors import InputError
from jaxformers.processing.features import BatchFeature
from jaxformers.processing.images.crop import center_crop, largest, pad_to
from jaxformers.processing.images.load import flat_images
from jaxformers.processing.images.normalize import scale_values
from jaxformers.processing.images.options import INERT, SHARED, Options, checked, standard
from jaxformers.processing.images.pixels import LAST, as_array, prepare, size_of
from jaxformers.processing.images.resize import resize, target_size

FILE = "preprocessor_config.json"
# Where a processor was made, or what it belongs to, not what it does.
ADMINISTRATIVE = ("image_processor_type", "feature_extractor_type", "processor_class", "_valid_processor_keys")


class ImageProcessor:
    """Resizes, crops, scales, normalises and pads pictures; `processor(images)` gives `pixel_values` [B,C,H,W].

    Options are attributes with transformers' names, and may be overridden in a call.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    own_options: ClassVar[tuple[str, ...]] = ()
    model_input_names: Sequence[str] = ("pixel_values",)

    size: dict[str, int] | None
    crop_size: dict[str, int] | None
    image_mean: Any
    image_std: Any

    def __init__(self, **options: Any):
        names = self.option_names()
        values = {"rescale_factor": 1 / 255, "default_to_square": True, **self.defaults, **options}
        values = {name: values.get(name) for name in names}
        for name, value in standard(values).items():
            setattr(self, name, value)
        self._extra = {k: v for k, v in options.items() if k not in names and k not in (*ADMINISTRATIVE, *INERT)}

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """The names of all options that this processor has."""
        return (*SHARED, *cls.own_options)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], **overrides: Any) -> ImageProcessor:
        """Build from the contents of preprocessor_config.json; overrides replace options."""
        cls.check_names(overrides)
        return cls(**{**raw, **overrides})

    @classmethod
    def from_pretrained(cls, path: str | Path, **overrides: Any) -> ImageProcessor:
        """Load a local folder or preprocessor_config.json; overrides replace options."""
        path = Path(path)
        return cls.from_dict(read_json(path / FILE if path.is_dir() else path), **overrides)

    @classmethod
    def check_names(cls, options: Mapping[str, Any]) -> None:
        """Raise TypeError for an option that this processor does not have."""
        unknown = [name for name in options if name not in cls.option_names() and name not in INERT]
        if unknown:
            known = ", ".join(sorted(cls.option_names()))
            raise TypeError(f"{cls.__name__} has no option {', '.join(map(repr, unknown))}; it has {known}")
        if options.get("device") is not None:
            raise TypeError(
                "device: Pillow works on the host; jaxformers.ops.images.device_preprocess runs on a device"
            )

    def __call__(self, images: Any, **options: Any) -> BatchFeature:
        """Return `pixel_values` of pictures of any kind that `flat_images` reads; options override the processor's.

        An array [B,C,H,W] with return_tensors "np" or "jax", else a list of arrays [C,H,W]. Raises InputError,
        ConfigError, and TypeError for unknown options.
        """
        chosen = self.chosen(options)
        arrays = [self.transform(self.prepared(image, chosen), chosen) for image in flat_images(images)]
        return self.gather(self.padded(arrays, chosen), chosen)

    preprocess = __call__

    def chosen(self, options: Mapping[str, Any]) -> Options:
        """The processor's options with those of a call over them."""
        self.check_names(options)
        names = self.option_names()
        own = {name: getattr(self, name) for name in names}
        return checked({**own, **{name: value for name, value in options.items() if name in names}})

    @staticmethod
    def prepared(image: Any, options: Options) -> Any:
        """One loaded picture as the steps take it."""
        return prepare(image, options.do_convert_rgb, options.input_data_format)

    def transform(self, image: Any, options: Options) -> np.ndarray:
        """All steps on one prepared picture; returns [C,H,W]."""
        array = self.resized(image, options) if options.do_resize else as_array(image)
        if options.do_center_crop and options.crop_size is not None:
            array = center_crop(array, options.crop_size["height"], options.crop_size["width"])
        return scale_values(array, options.factor, options.mean, options.image_std)

    def resized(self, image: Any, options: Options) -> np.ndarray:
        """One prepared picture in its new size."""
        return resize(image, target_size(*size_of(image), options.size or {}), options.resample or 0)

    def padded(self, arrays: list[np.ndarray], options: Options) -> list[np.ndarray]:
        """All pictures in one size, if that is asked for."""
        if not options.do_pad or not arrays:
            return arrays
        height, width = padded_size(arrays, options)
        return [pad_to(array, height, width) for array in arrays]

    def gather(self, arrays: list[np.ndarray], options: Options, **others: Any) -> BatchFeature:
        """The result of a call, as arrays if that is asked for."""
        if options.data_format == LAST:
            arrays = [np.moveaxis(array, 0, -1) for array in arrays]
        arrays = [array if array.flags.writeable else array.copy() for array in arrays]
        if options.return_tensors is None:
            return BatchFeature({**others, "pixel_values": arrays})
        shapes = sorted({array.shape for array in arrays})
        if len(shapes) > 1:
            raise InputError(
                f"the images have the shapes {shapes} after preprocessing and make no batch: "
                "resize to one height and width, crop, pad with do_pad=True, or pass return_tensors=None"
            )
        stacked = np.stack(arrays) if arrays else np.zeros((0,), np.float32)
        return BatchFeature({**others, "pixel_values": stacked}, options.return_tensors)

    def to_dict(self) -> dict[str, Any]:
        """Everything that another process needs to build this processor, as transformers spells it."""
        values = {name: getattr(self, name) for name in self.option_names()}
        # None is written where it differs from what a reader would take for a missing key.
        values = {key: v for key, v in values.items() if v is not None or self.defaults.get(key) is not None}
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        if values.get("default_to_square") == type(self).defaults.get("default_to_square", True):
            del values["default_to_square"]
        return {**self._extra, **values, "image_processor_type": type(self).__name__}

    def save_pretrained(self, folder: str | Path) -> list[str]:
        """Write preprocessor_config.json, which transformers reads; returns the paths written."""
        path = Path(folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, self.to_dict())
        return [str(path)]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {json.dumps(self.to_dict(), indent=2, sort_keys=True, default=str)}"


def padded_size(arrays: Sequence[np.ndarray], options: Options) -> tuple[int, int]:
    """The height and width to pad to: those asked for, else the least that hold all pictures."""
    if options.pad_size is None:
        return largest(arrays)
    return options.pad_size["height"], options.pad_size["width"]


def write_json(path: Path, contents: Mapping[str, Any]) -> None:
    """Write a file of JSON, aside first: a failure leaves the old file whole."""
    text = json.dumps(contents, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    aside = path.with_name(f".{path.name}.writing")
    aside.write_text(text, encoding="utf-8", newline="")
    aside.replace(path)
