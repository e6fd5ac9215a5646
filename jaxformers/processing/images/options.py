"""What can be asked of an image processor, by transformers' names, in its file or in a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from jaxformers.core.errors import ConfigError
from jaxformers.processing.images.pixels import FIRST, LAST
from jaxformers.processing.images.resize import Size, read_size

FILTERS = range(6)  # Pillow's: nearest, lanczos, bilinear, bicubic, box, hamming
# Of other backends: where tensors live, and whether they are batched. They change no number, so None and False pass.
INERT = ("device", "disable_grouping", "image_seq_length")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything one call does to its pictures; None is as good as False for what is done or not."""

    do_convert_rgb: bool | None = None
    do_resize: bool | None = None
    size: Size | None = None
    default_to_square: bool | None = None
    resample: int | None = None
    do_center_crop: bool | None = None
    crop_size: Size | None = None
    do_rescale: bool | None = None
    rescale_factor: float | None = None
    do_normalize: bool | None = None
    image_mean: float | Sequence[float] | None = None
    image_std: float | Sequence[float] | None = None
    do_pad: bool | None = None
    pad_size: Size | None = None
    data_format: str | None = None
    input_data_format: str | None = None
    return_tensors: str | None = None
    # Of some families alone.
    crop_pct: float | None = None
    format: str | None = None
    do_convert_annotations: bool | None = None

    @property
    def factor(self) -> float | None:
        """What values are multiplied by, None for nothing."""
        return self.rescale_factor if self.do_rescale else None

    @property
    def mean(self) -> float | Sequence[float] | None:
        """What is subtracted by channel, None for nothing."""
        return self.image_mean if self.do_normalize else None


OWN = ("crop_pct", "format", "do_convert_annotations")
SHARED = tuple(field.name for field in fields(Options) if field.name not in OWN)


def standard(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with sizes by named edges, enums as their values and tuples for lists."""
    out = {key: getattr(value, "value", value) for key, value in raw.items()}
    out["size"] = read_size(out.get("size"), bool(out.get("default_to_square")))
    for name in ("crop_size", "pad_size"):
        out[name] = read_size(out.get(name), name=name)
    for name in ("image_mean", "image_std"):
        if isinstance(value := out.get(name), list):
            out[name] = tuple(value)
    return out


def checked(raw: Mapping[str, Any]) -> Options:
    """Return the options of one call. Raises ConfigError where one needs another that is not there."""
    options = Options(**standard(raw))
    needs = {
        "do_resize": ("size", "resample"),
        "do_center_crop": ("crop_size",),
        "do_rescale": ("rescale_factor",),
        "do_normalize": ("image_mean", "image_std"),
    }
    for asked, names in needs.items():
        missing = [name for name in names if getattr(options, name) is None]
        if getattr(options, asked) and missing:
            raise ConfigError(f"{asked} needs {' and '.join(missing)}: pass it, or {asked}=False")
    if options.do_center_crop and set(options.crop_size or ()) != {"height", "width"}:
        raise ConfigError(f"crop_size is {options.crop_size}: expected a number, or height and width")
    if options.do_pad and options.pad_size is not None and set(options.pad_size) != {"height", "width"}:
        raise ConfigError(f"pad_size is {options.pad_size}: expected a number, or height and width")
    if options.do_resize and options.resample not in FILTERS:
        raise ConfigError(f"resample is {options.resample!r}: expected one of Pillow's filters, 0 to 5")
    for name in ("data_format", "input_data_format"):
        if getattr(options, name) not in (None, FIRST, LAST):
            raise ConfigError(f"{name} is {getattr(options, name)!r}: expected {FIRST!r} or {LAST!r}")
    return options
