"""Two-dimensional convolution of [B,H,W,C] with kernels [kh,kw,in/groups,out]."""

import jax
import jax.numpy as jnp

from jaxformers.ops.dispatch import Op
from jaxformers.ops.dot import precision


def reference(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: int = 0, groups: int = 1, dilation: int = 1
) -> jax.Array:
    """XLA's own convolution."""
    sides = (padding, padding)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (sides, sides),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=precision(x, kernel),
    )


conv2d = Op("conv2d", reference)


@conv2d.register("shifts", platforms=("cpu",))
def shifts(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: int = 0, groups: int = 1, dilation: int = 1
) -> jax.Array:
    """Depthwise as a sum of shifted images: XLA's depthwise convolution is some forty times slower on a CPU."""
    kh, kw, inner, out = kernel.shape
    if stride * dilation != 1 or inner != 1 or out != groups or max(kh, kw) <= padding:
        raise NotImplementedError(
            "only depthwise, without stride or dilation, and with padding below the window's size"
        )
    return shifted_sum(pad(x, padding, padding), kernel[:, :, 0])


def pad(x: jax.Array, rows: int, columns: int) -> jax.Array:
    """Zeros on every side of [B,H,W,C]."""
    return jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))


@jax.custom_vjp
def shifted_sum(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Depthwise convolution without padding, kernel [kh,kw,C]."""
    kh, kw, _ = kernel.shape
    h, w = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    return sum(x[:, i : i + h, j : j + w] * kernel[i, j] for i in range(kh) for j in range(kw))  # type: ignore[return-value]


def forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The sum, and what its gradient needs."""
    return shifted_sum(x, kernel), (x, kernel)


def backward(saved: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same sum with the kernel turned around; for the kernel a loop, since 49 unrolled sums compile for seconds."""
    x, kernel = saved
    kh, kw, c = kernel.shape
    size = (x.shape[0], grad.shape[1], grad.shape[2], c)

    def one(at: jax.Array) -> jax.Array:
        return (jax.lax.dynamic_slice(x, (0, at // kw, at % kw, 0), size) * grad).sum(axis=(0, 1, 2))

    to_kernel = jax.lax.map(one, jnp.arange(kh * kw)).reshape(kernel.shape)
    return shifted_sum(pad(grad, kh - 1, kw - 1), kernel[::-1, ::-1]), to_kernel.astype(kernel.dtype)


shifted_sum.defvjp(forward, backward)
