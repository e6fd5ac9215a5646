"""Batches of pictures prepared on a device: Pillow's resampling, centre crop and normalising, in one program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core.errors import ConfigError, InputError
from jaxformers.ops.dot import einsum
from jaxformers.processing.images.families import ConvNextImageProcessor, LlavaImageProcessor
from jaxformers.processing.images.options import Options
from jaxformers.processing.images.processor import ImageProcessor
from jaxformers.processing.images.resize import target_size, to_shortest

NEAREST, LANCZOS, BILINEAR, BICUBIC, BOX, HAMMING = range(6)


def triangle(x: np.ndarray) -> np.ndarray:
    """Linear interpolation."""
    return np.maximum(1 - np.abs(x), 0)


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic with a = -0.5."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def lanczos(x: np.ndarray) -> np.ndarray:
    """A sinc of three lobes, windowed by its own wider self."""
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


def box(x: np.ndarray) -> np.ndarray:
    """The mean of what a pixel covers."""
    return ((x > -0.5) & (x <= 0.5)).astype(float)


def hamming(x: np.ndarray) -> np.ndarray:
    """A sinc of one lobe under a Hamming window."""
    return np.where(np.abs(x) < 1, np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x)), 0)


# Each of Pillow's filters with how far it reaches (python-pillow, src/libImaging/Resample.c).
FILTERS: dict[int, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    LANCZOS: (lanczos, 3.0),
    BILINEAR: (triangle, 1.0),
    BICUBIC: (cubic, 2.0),
    BOX: (box, 0.5),
    HAMMING: (hamming, 1.0),
}


def weights(new: int, old: int, resample: int) -> np.ndarray:
    """Matrix [new, old] of Pillow's resampling along one axis; a filter widens as the picture shrinks."""
    scale = old / new
    if resample == NEAREST:
        # Pillow adds step after step, and so rounds otherwise than a product where a pixel's edge is met.
        at = np.cumsum([scale * 0.5] + [scale] * (new - 1))
        return np.eye(old, dtype=np.float32)[at.astype(int)]
    kernel, reach = FILTERS[resample]
    wide = max(scale, 1.0)
    center = (np.arange(new)[:, None] + 0.5) * scale
    first = np.maximum((center - reach * wide + 0.5).astype(int), 0)
    stop = np.minimum((center + reach * wide + 0.5).astype(int), old)
    place = np.arange(old)[None]
    out = np.where((place >= first) & (place < stop), kernel((place - center + 0.5) / wide), 0)
    return (out / out.sum(1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Window:
    """One axis of a batch: resized from `old` to `new` pixels, then `length` of them from `start`.

    start may be negative, and start + length beyond new: what is not there is black.
    """

    old: int
    new: int
    start: int
    length: int

    def matrix(self, resample: int) -> np.ndarray:
        """Weights [length, old], of the pixels that are kept alone."""
        full = np.eye(self.old, dtype=np.float32) if self.new == self.old else weights(self.new, self.old, resample)
        out = np.zeros((self.length, self.old), np.float32)
        first, stop = max(self.start, 0), min(self.start + self.length, self.new)
        out[first - self.start : stop - self.start] = full[first:stop]
        return out


@dataclass(frozen=True)
class Plan:
    """All that is done to a batch of one size; scale and shift by channel take bytes to what the model reads."""

    rows: Window
    columns: Window
    resample: int
    scale: tuple[float, ...]
    shift: tuple[float, ...]


@partial(jax.jit, static_argnames="plan")
def preprocess(images: jax.Array, plan: Plan) -> jax.Array:
    """Images [B,H,W,C] of bytes to pixel values [B,C,h,w], float32; rounds to bytes after each axis, as Pillow does."""
    x = jnp.moveaxis(images, -1, 1).astype(jnp.float32)
    axes = [("bchw,uh->bcuw", plan.rows), ("bchw,vw->bchv", plan.columns)]
    for product, axis in axes if rows_first(plan) else axes[::-1]:
        if axis != Window(axis.old, axis.old, 0, axis.old):
            x = as_bytes(einsum(product, x, jnp.asarray(axis.matrix(plan.resample))))
    column = (-1, 1, 1)
    return x * jnp.asarray(plan.scale).reshape(column) + jnp.asarray(plan.shift).reshape(column)


def rows_first(plan: Plan) -> bool:
    """Whether Pillow resamples along the columns' direction first; found by trying Pillow 13 on many sizes.

    The order matters because it rounds to bytes in between, and cuts off what overshoots.
    """
    lost_rows, lost_columns = plan.rows.old - plan.rows.new, plan.columns.old - plan.columns.new
    return lost_rows > 0 and lost_rows > 2 * lost_columns


def as_bytes(x: jax.Array) -> jax.Array:
    """Whole numbers in [0, 255], halves upwards, still as floats."""
    return jnp.clip(jnp.floor(x + 0.5), 0, 255)


def device_preprocess(processor: ImageProcessor, **options: Any) -> Callable[[Any], jax.Array]:
    """Return a function from a batch of bytes [B,H,W,C] to `pixel_values` [B,C,h,w] on the batch's device.

    The numbers are the processor's within one step of 255, as far as a sum rounds differently; one program is compiled
    for each shape. Options override the processor's. Raises ConfigError for a processor whose steps differ.
    """
    chosen = processor.chosen(options)
    if isinstance(processor, LlavaImageProcessor) and chosen.do_pad or chosen.do_pad and chosen.pad_size is not None:
        raise ConfigError("device_preprocess does not pad: pass do_pad=False, or use the processor itself")
    if chosen.data_format == "channels_last" or chosen.input_data_format == "channels_first":
        raise ConfigError("device_preprocess takes [B,H,W,C] and gives [B,C,h,w]: leave out the data formats")

    def call(images: Any) -> jax.Array:
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[-1] not in (1, 3):
            raise InputError(
                f"device_preprocess takes bytes [B,H,W,C] with 1 or 3 channels, found {images.shape} {images.dtype}"
            )
        if images.shape[-1] == 1 and chosen.do_convert_rgb:
            images = jnp.repeat(jnp.asarray(images), 3, axis=-1)
        return preprocess(images, plan_for(processor, chosen, images.shape))

    return call


def plan_for(processor: ImageProcessor, options: Options, shape: tuple[int, ...]) -> Plan:
    """The plan for batches [B,H,W,C] of one shape."""
    height, width, channels = shape[1:]
    new, crops = (height, width), []
    if options.do_resize:
        new = target_size(height, width, options.size or {})
        edge = (options.size or {}).get("shortest_edge", 0)
        if isinstance(processor, ConvNextImageProcessor):
            new = (edge, edge)
            if edge < 384:
                new = to_shortest(height, width, int(edge / (options.crop_pct or 1)))
                crops.append((edge, edge))
    if options.do_center_crop and options.crop_size is not None:
        crops.append((options.crop_size["height"], options.crop_size["width"]))
    scale, shift = affine(options, channels)
    axes = [
        window(old, size, [crop[axis] for crop in crops])
        for axis, (old, size) in enumerate(zip(shape[1:3], new, strict=True))
    ]
    return Plan(axes[0], axes[1], options.resample or 0, scale, shift)


def window(old: int, new: int, lengths: list[int]) -> Window:
    """One axis that is cropped to each of the lengths in turn, about its middle."""
    start, length = 0, new
    for wanted in lengths:
        # As on the host, an odd pixel too many is cut at the end, and one too few is added before.
        start += (length - wanted) // 2
        length = wanted
    return Window(old, new, start, length)


def affine(options: Options, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The scale and shift by channel that rescaling and normalising come to."""
    factor = 1.0 if options.factor is None else options.factor
    mean, std = (0.0, 1.0) if options.mean is None else (options.mean, options.image_std)
    means, deviations = (np.broadcast_to(np.asarray(x, float), channels) for x in (mean, std))
    return tuple((factor / deviations).tolist()), tuple((-means / deviations).tolist())
