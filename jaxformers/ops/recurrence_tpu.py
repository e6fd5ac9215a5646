"""Recurrences by this library's own kernels for TPUs; on a mesh each device has its own rows and channels."""

import math

import jax
from jax.sharding import PartitionSpec

from jaxformers.core.sharding import axes_of, mesh_and_rules, over_shards, spec
from jaxformers.ops.dispatch import target_platform
from jaxformers.ops.flash_attention import check_unsharded
from jaxformers.ops.grouped_heads import repeat_heads

SHORT = 8  # sequences up to this length run step by step

Pair = tuple[jax.Array, jax.Array]


def check_long(x: jax.Array) -> None:
    """Raise NotImplementedError where a few steps are cheaper than the setting up of chunks."""
    if x.shape[1] <= SHORT:
        raise NotImplementedError(f"{x.shape[1]} tokens are computed step by step")


def selective_tpu(x: jax.Array, dt: jax.Array, a: jax.Array, b: jax.Array, c: jax.Array, state: jax.Array) -> Pair:
    """As the op `selective_scan`, by a kernel for TPUs; elsewhere, when forced, the kernel is interpreted."""
    from jaxformers.kernels.recurrence.selective_tpu import Settings, selective_scan

    check_long(x)
    settings = Settings(interpret=target_platform() != "tpu")

    def local(*arrays: jax.Array) -> Pair:
        return selective_scan(*arrays, settings)

    active = mesh_and_rules()
    if active is None:
        check_unsharded(x)
        return local(x, dt, a, b, c, state)
    batch, _, width = spec(("batch", None, "mlp"), x.shape, *active)
    tokens, shared, held = (
        PartitionSpec(*axes) for axes in ((batch, None, width), (batch, None, None), (batch, width, None))
    )
    run = over_shards(local, (tokens, tokens, PartitionSpec(width, None), shared, shared, held), (tokens, held))
    return run(x, dt, a, b, c, state)


def dual_tpu(
    x: jax.Array, dt: jax.Array, a: jax.Array, b: jax.Array, c: jax.Array, state: jax.Array, *, size: int
) -> Pair:
    """As the op `state_space_dual`, by a kernel for TPUs, whose chunks have a size of their own."""
    check_long(x)
    active = mesh_and_rules()
    if active is None:
        check_unsharded(x)
        return local_dual(x, dt, a, b, c, state)
    batch, _, heads, _ = spec(("batch", None, "mlp", None), x.shape, *active)
    parts = math.prod(active[0].shape[axis] for axis in axes_of(heads))
    b, c = (repeat_heads(z, x.shape[2], parts) for z in (b, c))
    tokens, steps, held = (
        PartitionSpec(*axes) for axes in ((batch, None, heads, None), (batch, None, heads), (batch, heads, None, None))
    )
    run = over_shards(local_dual, (tokens, steps, PartitionSpec(heads), tokens, tokens, held), (tokens, held))
    return run(x, dt, a, b, c, state)


def local_dual(x: jax.Array, dt: jax.Array, a: jax.Array, b: jax.Array, c: jax.Array, state: jax.Array) -> Pair:
    """The recurrence of one device's heads. Raises NotImplementedError when their states are too large."""
    from jaxformers.kernels.recurrence.dual_tpu import HELD, Settings, bytes_held, state_space_dual

    (heads, dim), (groups, states) = x.shape[2:], b.shape[2:]
    if (held := bytes_held(heads // groups, dim, states)) > HELD:
        raise NotImplementedError(
            f"{heads // groups} heads that share a group have {held} bytes of states; takes {HELD}"
        )
    return state_space_dual(x, dt, a, b, c, state, Settings(interpret=target_platform() != "tpu"))
