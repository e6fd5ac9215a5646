"""Mixed images: each one with the image at the mirrored place of the batch, and their labels in the same shares."""

import jax
import jax.numpy as jnp

Mixed = tuple[jax.Array, jax.Array]


def mixup(images: jax.Array, labels: jax.Array, key: jax.Array, alpha: float) -> Mixed:
    """Blend images [B,C,H,W] and shares of classes [B,K] by one weight for all, drawn from Beta(alpha, alpha)."""
    share = jax.random.beta(key, alpha, alpha)
    return blend(images, share), blend(labels, share)


def cutmix(images: jax.Array, labels: jax.Array, key: jax.Array, alpha: float) -> Mixed:
    """Paste a box of the other image; the labels' weight is the part of the image that is left."""
    drawn, at = jax.random.split(key)
    height, width = images.shape[2:]
    side = jnp.sqrt(1.0 - jax.random.beta(drawn, alpha, alpha))
    center = jax.random.uniform(at, (2,))
    rows = within(height, center[0] * height, side * height)
    columns = within(width, center[1] * width, side * width)
    box = rows[:, None] & columns
    return jnp.where(box, images[::-1], images), blend(labels, 1.0 - box.mean())


def within(size: int, center: jax.Array, length: jax.Array) -> jax.Array:
    """Which of `size` places lie less than half a length from the center."""
    return jnp.abs(jnp.arange(size) + 0.5 - center) < length / 2


def blend(x: jax.Array, share: jax.Array) -> jax.Array:
    """share * x + (1 - share) * the mirrored batch."""
    return (share * x + (1.0 - share) * x[::-1]).astype(x.dtype)
