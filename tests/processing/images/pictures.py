"""Pictures of every mode and array of every kind, at random, and options at random, for comparing processors."""

import numpy as np
from hypothesis import strategies as st
from PIL import Image

MODES = ("RGB", "L", "RGBA", "P", "1", "LA", "CMYK", "I;16")
ARRAYS = ("bytes", "first", "unit", "whole", "double", "integers", "grey", "opacity", "truth")


def picture(kind: str, height: int, width: int, seed: int):
    """A picture of noise, a Pillow image or an array."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    rgb = noise[..., :3]
    if kind in MODES:
        if kind == "RGBA":
            return Image.fromarray(noise)
        if kind == "I;16":
            return Image.fromarray((noise[..., 0] // 2).astype(np.uint16))
        return Image.fromarray(rgb).convert(kind)
    return {
        "bytes": rgb,
        "first": rgb.transpose(2, 0, 1),
        "unit": (rgb / 255).astype(np.float32),
        "whole": rgb.astype(np.float32),
        "double": rgb / 300,
        "integers": rgb.astype(np.int32),
        "grey": noise[..., :1],
        "opacity": noise,
        "truth": rgb > 100,
    }[kind]


pictures = st.builds(
    picture, st.sampled_from(MODES + ARRAYS), st.integers(5, 70), st.integers(5, 70), st.integers(0, 2**32 - 1)
)
boxes = st.one_of(
    st.fixed_dictionaries({"height": st.integers(1, 60), "width": st.integers(1, 60)}), st.integers(1, 60)
)
edges = st.integers(2, 60)
sizes = st.one_of(
    boxes,
    st.lists(st.integers(1, 60), min_size=2, max_size=2),
    st.fixed_dictionaries({"shortest_edge": edges}),
    st.fixed_dictionaries({"shortest_edge": edges, "longest_edge": edges}),
    st.fixed_dictionaries({"max_height": edges, "max_width": edges}),
)
values = st.one_of(st.just(0.5), st.lists(st.floats(0.05, 0.9), min_size=3, max_size=3))
SWITCHES = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_pad")
options = st.fixed_dictionaries(
    {},
    optional={
        "size": sizes,
        "crop_size": boxes,
        "pad_size": boxes,
        "resample": st.integers(0, 5),
        "rescale_factor": st.sampled_from([1 / 255, 1 / 127.5, 1.0]),
        "image_mean": values,
        "image_std": values,
        **{name: st.sampled_from([True, True, False, None]) for name in SWITCHES},
    },
)
