"""The TPU's flash attention, interpreted on a CPU, against float64: values and gradients for every kind of mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.kernels.attention.blocks import Blocks
from jaxformers.kernels.attention.flash_tpu import flash_attention
from jaxformers.kernels.attention.tpu_blocks import Settings
from jaxformers.kernels.attention.visibility import Visibility, visible_array
from tests.kernels import float64

B, T, S = 2, 300, 340  # neither length divides by a block
Q_SLOTS, K_SLOTS = jnp.arange(T) + S - T, jnp.arange(S)
SMALL = Blocks((128, 256), (128, 128), (256, 128))
PACKED = {"q_segments": Q_SLOTS[None] // 90, "k_segments": K_SLOTS[None] // 90}
PADDING = {"keys": K_SLOTS[None] >= jnp.array([[0], [200]])}
MASKS = {
    "full": Visibility(),
    "causal": Visibility(K_SLOTS, high=Q_SLOTS),
    "window": Visibility(K_SLOTS, Q_SLOTS - 50, Q_SLOTS),
    "around": Visibility(K_SLOTS, Q_SLOTS - 30, Q_SLOTS + 60),
    "prefix": Visibility(K_SLOTS, Q_SLOTS - 20, Q_SLOTS, jnp.array([150, 2])),
    "padding": Visibility(K_SLOTS, high=Q_SLOTS, **PADDING),
    "segments": Visibility(K_SLOTS, high=Q_SLOTS, **PACKED),
    "all at once": Visibility(K_SLOTS, Q_SLOTS - 100, Q_SLOTS + 9, jnp.array([3, 260]), **PADDING, **PACKED),
    "nothing for some": Visibility(K_SLOTS, high=Q_SLOTS - 200),
}


def arrays(heads: int, kv: int, d: int, dv: int, dtype: str = "float32") -> tuple[jax.Array, ...]:
    """q, k, v and gradients of the output and the logarithm."""
    shapes = [(B, T, heads, d), (B, S, kv, d), (B, S, kv, dv), (B, T, heads, dv), (B, heads, T)]
    keys = jax.random.split(jax.random.key(0), len(shapes))
    made = [jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes, strict=True)]
    return *(x.astype(dtype) for x in made[:4]), made[4]


def ours(settings: Settings, visibility: Visibility, q, k, v, grad, grad_lse, extras: dict) -> float64.Truth:
    def run(q, k, v, extras):
        return flash_attention(q, k, v, visibility, settings, **extras)

    (out, lse), pull = jax.vjp(run, q, k, v, extras)
    d_q, d_k, d_v, d_extras = pull((grad, jnp.where(lse > -1e29, grad_lse, 0.0)))
    return float64.Truth(out, lse, d_q, d_k, d_v, d_extras.get("bias"), d_extras.get("sinks"))


def compare(got: float64.Truth, want: float64.Truth, tolerance: float) -> None:
    for name, a, b in zip(want._fields, got, want, strict=True):
        assert (a is None) == (b is None), name
        if b is not None:
            size = max(1.0, float(np.abs(np.where(np.abs(b) < 1e29, b, 0)).max()))
            np.testing.assert_allclose(np.asarray(a, np.float64), b, atol=tolerance * size, err_msg=name)


@pytest.mark.parametrize("name", MASKS)
def test_values_and_gradients(name: str) -> None:
    visibility = MASKS[name]
    q, k, v, grad, grad_lse = arrays(4, 2, 64, 64)
    settings = Settings(0.125, None, SMALL, interpret=True)
    got = jax.jit(ours, static_argnums=0)(settings, visibility, q, k, v, grad, grad_lse, {})
    seen = visible_array(visibility)
    want = float64.attention(q, k, v, seen, (grad, grad_lse * (np.asarray(got.lse) > -1e29)), scale=0.125)
    compare(got, want, 3e-6)
