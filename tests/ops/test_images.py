"""Pictures prepared on a device are those that the processors make, within one step of 255."""

import jax
import numpy as np
import pytest

from jaxformers.core.errors import ConfigError, InputError
from jaxformers.ops.images import device_preprocess, weights
from jaxformers.processing.images.families import PROCESSORS

STEP = 1 / 255


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def compare(name, images, share=0.01, **options):
    """The same numbers but for a small share of pixels, which are one step away."""
    processor = PROCESSORS[name](**options)
    ours = np.asarray(device_preprocess(processor)(images))
    host = processor(images, return_tensors="np").pixel_values
    assert ours.dtype == host.dtype == np.float32
    steps = np.abs(ours - host) * np.reshape(processor.image_std, (-1, 1, 1)) / STEP
    assert steps.max() < 1.001
    assert (steps > 0.5).mean() < share


SIZES = {
    "ViTImageProcessor": {"size": {"height": 30, "width": 35}},
    "BitImageProcessor": {"size": {"shortest_edge": 31}, "crop_size": {"height": 28, "width": 45}},
    "CLIPImageProcessor": {"size": {"shortest_edge": 33}, "crop_size": 33},
    "SiglipImageProcessor": {"size": {"height": 70, "width": 20}},
    "ConvNextImageProcessor": {"size": {"shortest_edge": 40}, "crop_pct": 0.8},
    "LlavaImageProcessor": {"size": {"shortest_edge": 20}, "crop_size": {"height": 64, "width": 21}},
    "DetrImageProcessor": {"size": {"shortest_edge": 40, "longest_edge": 60}},
}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(("height", "width"), [(60, 91), (97, 41)])
def test_every_processor(name, height, width):
    compare(name, noise(2, height, width, 3), **SIZES[name])


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("size", [(30, 35), (80, 90), (41, 50)])
def test_every_filter(resample, size):
    compare("ViTImageProcessor", noise(1, 61, 50, 3), size=list(size), resample=resample)


def test_convnext_from_384():
    compare("ConvNextImageProcessor", noise(1, 30, 40, 3), size={"shortest_edge": 384})


def test_steps_left_out_and_overridden():
    images = noise(1, 20, 30, 3)
    processor = PROCESSORS["CLIPImageProcessor"]()
    for options in (
        {"do_resize": False, "do_center_crop": False},
        {"do_resize": False, "crop_size": 25, "do_normalize": False},
        {"do_resize": False, "do_center_crop": False, "do_rescale": False, "do_normalize": False},
        {"do_resize": False, "crop_size": 16, "image_mean": 0.5, "image_std": 0.25, "rescale_factor": 0.1},
    ):
        host = np.stack(processor(images, **options)["pixel_values"])
        np.testing.assert_allclose(device_preprocess(processor, **options)(images), host, atol=2e-6, rtol=2e-6)


def test_grey_pictures_become_three_channels():
    processor = PROCESSORS["CLIPImageProcessor"](size=16, crop_size=16)
    grey = noise(1, 20, 30, 1)
    np.testing.assert_allclose(
        device_preprocess(processor)(grey), processor(grey, return_tensors="np").pixel_values, atol=0.02
    )


def test_it_is_a_function_of_arrays_on_a_device():
    """One program for a shape; it may stand inside a larger one."""
    call = device_preprocess(PROCESSORS["ViTImageProcessor"](size=16))
    images = noise(3, 20, 30, 3)
    assert isinstance(call(images), jax.Array)
    inside = jax.jit(lambda x: call(x).mean())(images)
    np.testing.assert_allclose(inside, call(images).mean(), rtol=1e-5)


def test_what_it_does_not_do_is_refused():
    with pytest.raises(ConfigError, match="does not pad"):
        device_preprocess(PROCESSORS["LlavaImageProcessor"](do_pad=True))
    with pytest.raises(ConfigError, match="leave out the data formats"):
        device_preprocess(PROCESSORS["ViTImageProcessor"](), data_format="channels_last")
    call = device_preprocess(PROCESSORS["ViTImageProcessor"]())
    for images in (noise(20, 30, 3), noise(1, 3, 20, 30), noise(1, 20, 30, 3) / 255):
        with pytest.raises(InputError, match="takes bytes"):
            call(images)


@pytest.mark.parametrize("resample", range(6))
def test_weights_sum_to_one(resample):
    for new, old in ((7, 30), (30, 7), (1, 9), (9, 1), (8, 8)):
        np.testing.assert_allclose(weights(new, old, resample).sum(1), 1, atol=1e-6)
