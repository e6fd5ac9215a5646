"""Pictures are had from wherever people keep them; what is no picture is said."""

import base64
import io
import sys

import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import load_image as theirs

from jaxformers.core.errors import InputError, MissingExtra
from jaxformers.processing.images.families import ViTImageProcessor
from jaxformers.processing.images.load import flat_images, load_image
from jaxformers.processing.sources import Limits
from tests.processing.web import serving


def noise(mode="RGB", size=(17, 12)):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(pixels if mode == "RGBA" else pixels[..., :3]).convert(mode)


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def same(ours, wanted):
    assert ours.mode == wanted.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(wanted))


@pytest.fixture(scope="module")
def web():
    with serving(encoded(noise())) as address:
        yield address


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_files_of_every_form(form, tmp_path):
    data = encoded(noise(), form)
    (path := tmp_path / "picture").write_bytes(data)
    text = base64.b64encode(data).decode()
    wanted = theirs(str(path))
    for source in (path, str(path), data, bytearray(data), text, f"data:image/{form.lower()};base64,{text}"):
        same(load_image(source), wanted)
    same(load_image(Image.open(path)), wanted)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "LA", "CMYK"])
def test_modes_become_rgb_as_in_transformers(mode, tmp_path):
    form = "TIFF" if mode == "CMYK" else "PNG"
    (path := tmp_path / "picture").write_bytes(encoded(noise(mode), form))
    same(load_image(path), theirs(str(path)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_cameras_that_were_turned(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (path := tmp_path / "photo.jpg").write_bytes(encoded(noise(), "JPEG", exif=exif, quality=95))
    same(load_image(path), theirs(str(path)))
    assert load_image(path).size == ((12, 17) if orientation > 4 else (17, 12))


def test_addresses(web):
    same(load_image(f"{web}/file"), noise())
    same(load_image(f"{web}/moved", timeout=5), noise())
    with pytest.raises(InputError, match=r"longer than 0\.3 s"):
        load_image(f"{web}/silent", timeout=0.3)
    with pytest.raises(InputError, match="larger than 10 bytes"):
        load_image(f"{web}/file", limits=Limits(size=10))


def test_processors_take_all_of_it(web, tmp_path):
    import jax.numpy as jnp

    noise().save(path := tmp_path / "picture.png")
    pixels = np.asarray(noise())
    sources = [path, str(path), path.read_bytes(), f"{web}/file", noise(), pixels, jnp.asarray(pixels), [[noise()]]]
    processor = ViTImageProcessor(size=8)
    batch = processor(sources, return_tensors="np").pixel_values
    assert batch.shape == (8, 3, 8, 8)
    np.testing.assert_array_equal(batch, np.broadcast_to(batch[:1], batch.shape))
    assert type(processor(noise(), return_tensors="jax").pixel_values).__module__.startswith("jax")


def test_torch_tensors_and_low_precision_need_nothing_special():
    import jax.numpy as jnp
    import torch

    pixels = np.asarray(noise())
    (tensor,) = flat_images(torch.from_numpy(pixels.copy()))
    np.testing.assert_array_equal(tensor, pixels)
    (half,) = flat_images(jnp.ones((3, 4, 3), jnp.bfloat16))
    assert half.dtype == np.float32


def test_grey_arrays_of_two_axes():
    grey = np.asarray(noise("L"))
    wanted = ViTImageProcessor(size=8, image_mean=0.5, image_std=0.5)(noise("L")).pixel_values[0]
    np.testing.assert_array_equal(
        ViTImageProcessor(size=8, image_mean=0.5, image_std=0.5)(grey).pixel_values[0], wanted
    )


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "TIFF"])
def test_truncated_files_are_damaged(form, part):
    data = encoded(noise(size=(64, 64)), form)
    with pytest.raises(InputError, match="damaged picture|no picture"):
        load_image(data[: int(len(data) * part)])


def test_flipped_bytes_never_escape():
    """A damaged file is a picture still, or an InputError."""
    random = np.random.default_rng(0)
    for form in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"):
        data = encoded(noise(), form)
        for _ in range(25):
            broken = bytearray(data)
            for place in random.integers(0, len(data), 3):
                broken[place] ^= int(random.integers(1, 256))
            try:
                assert load_image(bytes(broken)).mode == "RGB"
            except InputError:
                pass


@pytest.mark.parametrize("data", [b"", b"<html>not a picture</html>", b"%PDF-1.7", b"RIFF....WAVEfmt "])
def test_what_is_no_picture(data, tmp_path):
    (path := tmp_path / "page.png").write_bytes(data)
    with pytest.raises(InputError, match="no picture") as caught:
        load_image(path)
    assert "page.png" in str(caught.value)


def test_bombs(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(InputError, match="too large.*MAX_IMAGE_PIXELS"):
        load_image(encoded(noise()))


def test_damaged_pillow_images_are_found(tmp_path):
    data = encoded(noise(size=(64, 64)), "PNG")
    (path := tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cut\.png is a damaged"):
        ViTImageProcessor()(Image.open(path))


@pytest.mark.parametrize("what", [3, None, {"a": 1}, [1, 2], np.zeros((2, 2, 2, 2, 2)), np.array(["a"]), object()])
def test_what_is_no_image_at_all(what):
    with pytest.raises(InputError, match="among the images"):
        ViTImageProcessor()(what)


def test_no_channels_and_no_batch():
    with pytest.raises(InputError, match="no axis of 1, 3 or 4 channels"):
        ViTImageProcessor()(np.zeros((7, 8, 9), np.uint8))
    with pytest.raises(InputError, match="make no batch"):
        ViTImageProcessor(do_resize=False)([noise(), noise(size=(3, 4))], return_tensors="np")
    with pytest.raises(InputError, match="as many values as channels"):
        ViTImageProcessor()(noise("L"))
    with pytest.raises(InputError, match=r"\[0, 255\] or \[0, 1\]"):
        ViTImageProcessor()(np.full((4, 4, 3), 300))
    with pytest.raises(InputError, match=r"fractions must lie in \[0, 1\]"):
        ViTImageProcessor()(np.full((4, 4, 3), -0.5))


def test_without_pillow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"jaxformers\[vision\]"):
        ViTImageProcessor()(np.zeros((4, 4, 3), np.uint8))


def test_channels_last_when_asked():
    processor = ViTImageProcessor(size=8)
    first = processor(noise(), return_tensors="np").pixel_values
    last = processor(noise(), return_tensors="np", data_format="channels_last").pixel_values
    np.testing.assert_array_equal(last, first.transpose(0, 2, 3, 1))


def test_options_that_are_not_there():
    with pytest.raises(TypeError, match="no option 'sise'"):
        ViTImageProcessor()(noise(), sise=3)
    with pytest.raises(TypeError, match="device_preprocess"):
        ViTImageProcessor()(noise(), device="cuda")
    for bad in ({"size": {"tallest": 3}}, {"resample": 9}, {"size": None}, {"size": {"longest_edge": 4}}):
        with pytest.raises(ValueError, match="size|resample"):
            ViTImageProcessor()(noise(), **bad)
