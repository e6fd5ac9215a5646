"""A turn of the ring by the flash kernel for TPUs."""

import jax
import jax.numpy as jnp

from jaxformers.core.mask import Mask
from jaxformers.ops.dispatch import target_device, target_platform
from jaxformers.ops.flash_attention import check_supported, visibility
from jaxformers.ops.ring_parts import Places, Rules


def serves(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None) -> bool:
    """Whether the kernel computes this. q [B,T,H,D]."""
    if target_platform() != "tpu" or bias is not None:
        return False
    try:
        check_supported(q, k, v, Mask())
    except NotImplementedError:
        return False
    return True


def settings_for(rules: Rules, q: jax.Array, v: jax.Array):
    """What is fixed when the kernel is compiled."""
    from jaxformers.kernels.attention.blocks import blocks_for
    from jaxformers.kernels.attention.tpu_blocks import Settings

    blocks = blocks_for(target_device().device_kind, max(q.shape[-1], v.shape[-1]), q.dtype.itemsize)
    return Settings(rules.scale, rules.softcap, blocks, interpret=target_platform() != "tpu")


def seen_by(rules: Rules, places: Places):
    """The mask as the kernel takes it."""
    segments = {"q_segments": places.q_segments, "k_segments": places.k_segments}
    mask = Mask(**segments, prefix=places.prefix, left=rules.left, right=rules.right)
    return visibility(mask, places.q_slots, places.k_slots)._replace(keys=places.real)


def attend(rules: Rules, q, k, v, bias, places: Places) -> tuple[jax.Array, jax.Array]:
    """Outputs and the logs of what they were divided by; see `Engine`."""
    from jaxformers.kernels.attention.flash_tpu import forward
    from jaxformers.kernels.attention.tpu_blocks import Inputs, merges

    out, lse = forward(settings_for(rules, q, v), Inputs(q, k, v, None), None, seen_by(rules, places))
    if merges(v.shape[-1]):
        out = jnp.swapaxes(out.reshape(*out.shape[:2], q.shape[1], -1), 1, 2)
    return out.astype(jnp.float32), lse


def gradients(rules: Rules, q, k, v, bias, places: Places, grad, lse, own) -> tuple:
    """Gradients of q, k and v, and none of a bias; see `Engine`."""
    from jaxformers.kernels.attention import flash_tpu_backward as backward
    from jaxformers.kernels.attention.tpu_blocks import Inputs, merges

    if merges(v.shape[-1]):
        grad = jnp.swapaxes(grad, 1, 2).reshape(grad.shape[0], grad.shape[2], -1)
    x = Inputs(q, k, v, None, None, grad, lse[:, :, None], own[:, :, None])
    found = backward.gradients(settings_for(rules, q, v), x, seen_by(rules, places))
    return (*(g.astype(jnp.float32) for g in found), None)
