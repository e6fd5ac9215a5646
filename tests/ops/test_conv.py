"""The depthwise convolution for CPUs against XLA's, and both against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxformers.nn.resize import resize_bicubic, resize_nearest
from jaxformers.ops.conv import conv2d, reference, shifts


def inputs(channels: int, window: int) -> tuple[jax.Array, jax.Array]:
    """An image of odd sides and a depthwise kernel."""
    rng = np.random.RandomState(0)
    image = rng.randn(2, 9, 13, channels).astype(np.float32)
    return jnp.asarray(image), jnp.asarray(rng.randn(window, window, 1, channels).astype(np.float32))


@pytest.mark.parametrize(("channels", "window", "padding"), [(4, 7, 3), (1, 3, 1), (5, 3, 0), (3, 5, 4)])
def test_shifts_equal_the_reference(channels: int, window: int, padding: int) -> None:
    """Values and both gradients."""
    x, kernel = inputs(channels, window)

    def loss(f, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.sin(f(x, kernel, padding=padding, groups=channels)).sum()

    np.testing.assert_allclose(
        shifts(x, kernel, padding=padding, groups=channels),
        reference(x, kernel, padding=padding, groups=channels),
        atol=1e-5,
    )
    for mine, theirs in zip(
        *(jax.grad(lambda *a, f=f: loss(f, *a), (0, 1))(x, kernel) for f in (shifts, reference)), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


@pytest.mark.parametrize("options", [{"stride": 2}, {"dilation": 2}, {"stride": 2, "padding": 3}, {"groups": 2}])
def test_conv_equals_torch(options: dict[str, int]) -> None:
    """Strides, dilation, padding and groups mean what they mean in PyTorch."""
    rng = np.random.RandomState(0)
    x, groups = rng.randn(2, 11, 14, 4).astype(np.float32), options.get("groups", 1)
    kernel = rng.randn(3, 3, 4 // groups, 6).astype(np.float32)
    theirs = torch.nn.functional.conv2d(
        torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(kernel).permute(3, 2, 0, 1), **options
    )
    ours = conv2d(jnp.asarray(x), jnp.asarray(kernel), **options)
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), atol=1e-5)


@pytest.mark.parametrize("size", [(3, 5), (16, 16), (4, 7), (1, 20)])
def test_resizing_equals_torch(size: tuple[int, int]) -> None:
    """Bicubic and nearest, larger and smaller."""
    x = np.random.RandomState(0).randn(2, 4, 7, 3).astype(np.float32)
    for ours, mode, kwargs in ((resize_bicubic, "bicubic", {"align_corners": False}), (resize_nearest, "nearest", {})):
        theirs = torch.nn.functional.interpolate(torch.tensor(x).permute(0, 3, 1, 2), size=size, mode=mode, **kwargs)
        np.testing.assert_allclose(ours(jnp.asarray(x), size), theirs.permute(0, 2, 3, 1), atol=1e-5)
