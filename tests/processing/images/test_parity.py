"""Every option on every kind of picture gives the very numbers of transformers' Pillow processors."""

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxformers.processing.images.families import PROCESSORS
from tests.processing.images.pictures import options, picture, pictures

NAMES = sorted(PROCESSORS)


def attempt(call):
    """What a call returns, or the error it raises."""
    try:
        return call()
    except Exception as error:
        return error


def compare(name, images, asked, at_call):
    """Both sides agree bit for bit, or both refuse."""
    ours, theirs = PROCESSORS[name], getattr(transformers, f"{name}Pil")
    if at_call:
        got, want = attempt(lambda: ours()(images, **asked)), attempt(lambda: theirs()(images, **asked))
    else:
        got, want = attempt(lambda: ours(**asked)(images)), attempt(lambda: theirs(**asked)(images))
    if isinstance(want, Exception):
        # One colour to pad with is as good as three, and only we take it.
        if isinstance(want, TypeError) and "float" in str(want) and name == "LlavaImageProcessor":
            return False
        assert isinstance(got, ValueError), f"transformers refuses ({want!r}), we gave {got!r}"
        return False
    assert not isinstance(got, Exception), f"we refuse ({got!r}) what transformers takes"
    assert set(got) == set(want)
    for key in want:
        assert len(got[key]) == len(want[key])
        for a, b in zip(got[key], want[key], strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    return True


@pytest.mark.parametrize("name", NAMES)
def test_options(name):
    """Overrides in the call and in the constructor alike; enough of the combinations are good ones."""
    agreed = []

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(images=st.one_of(pictures, st.lists(pictures, min_size=1, max_size=3)), asked=options, at_call=st.booleans())
    def check(images, asked, at_call):
        agreed.append(compare(name, images, asked, at_call))

    check()
    assert sum(agreed) > 30


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("height", "width"), [(480, 640), (333, 500), (224, 224), (1, 1)])
def test_defaults(name, height, width):
    if name == "DetrImageProcessor" and height == 480:
        asked = {"size": {"shortest_edge": 400, "longest_edge": 600}}
    else:
        asked = {} if name != "DetrImageProcessor" else {"size": {"shortest_edge": 100, "longest_edge": 120}}
    assert compare(name, picture("RGB", height, width, 1), asked, True)


@pytest.mark.parametrize(("edge", "crop_pct"), [(224, 0.875), (224, 0.95), (383, 0.5), (384, 0.5), (17, 1.0)])
@pytest.mark.parametrize("resample", [2, 3])
def test_convnext_crops_below_384_alone(edge, crop_pct, resample):
    asked = {"size": {"shortest_edge": edge}, "crop_pct": crop_pct, "resample": resample}
    assert compare("ConvNextImageProcessor", picture("RGB", 100, 140, 3), asked, True)
    assert compare("ConvNextImageProcessor", picture("unit", 100, 140, 3), asked, False)


@pytest.mark.parametrize("factor", [1 / 255, 1 / 127.5, 0.5])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint16", "int64"])
def test_precisions(dtype, factor):
    images = (np.random.default_rng(0).random((3, 20, 30)) * 200).astype(dtype)
    for asked in ({}, {"do_rescale": False}, {"do_normalize": False}, {"do_rescale": False, "do_normalize": False}):
        assert compare("ViTImageProcessor", images, {**asked, "do_resize": False, "rescale_factor": factor}, True)


@pytest.mark.parametrize("name", ["ViTImageProcessor", "CLIPImageProcessor"])
@pytest.mark.parametrize("order", ["channels_first", "channels_last"])
@pytest.mark.parametrize("shape", [(3, 9, 3), (4, 8, 3), (1, 4, 4), (3, 9, 9)])
def test_where_the_channels_are(name, shape, order):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    asked = {
        "input_data_format": order,
        "do_resize": False,
        "do_center_crop": False,
        "image_mean": 0.5,
        "image_std": 0.5,
    }
    compare(name, images, asked, True)
    compare(name, images, {**asked, "input_data_format": None}, True)


def test_batches_of_arrays_and_nested_lists():
    batch = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    for images in (batch, list(batch), [batch, batch], [list(batch), [batch[0]]], tuple(batch)):
        assert compare("CLIPImageProcessor", images, {}, True)
