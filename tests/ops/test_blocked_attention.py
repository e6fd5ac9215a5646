"""Attention in blocks by XLA against the plain form: values and gradients over every kind of mask, and on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxformers as jf
import jaxformers.ops.blocked_attention as module
from jaxformers.core.mask import Mask
from jaxformers.core.sharding import use_mesh
from jaxformers.ops.attention import attention
from jaxformers.ops.blocked_attention import block_size, blocked, even
from jaxformers.ops.dispatch import use, watch_calls

B, T, S = 2, 150, 200  # two blocks of 128 each, neither of which is full
KEYS = jnp.arange(S)[None] >= jnp.array([[0], [140]])
MASKS = {
    "full": Mask(),
    "causal": Mask.causal(),
    "window": Mask.causal().within(30),
    "around": Mask().around(20),
    "padding": Mask.causal(KEYS),
    "prefix": Mask(right=0, prefix=jnp.array([70, 20])),
    "prefix alone": Mask(prefix=jnp.array([70, 0])),
    "segments": Mask(right=0, q_segments=(jnp.arange(T)[None] + 50) // 60, k_segments=jnp.arange(S)[None] // 60),
    "all rules": Mask(KEYS, jnp.ones((B, T), int), (jnp.arange(S)[None] > 99) + 0, jnp.array([9, 150]), None, 40, 5),
}
EXTRAS = {
    "bias of keys": {"bias": (1, 4, 1, S)},
    "bias of rows, soft cap": {"bias": (B, 1, T, S), "softcap": 5.0},
    "sinks": {"sinks": (4,)},
    "whole bias, sinks, soft cap": {"bias": (1, 4, T, S), "sinks": (4,), "softcap": 3.0},
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONG", 0)
    monkeypatch.setattr(module, "SCORES", 1)


def arrays(kv: int = 2, dtype: str = "float32") -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(B, T, 4, 8), (B, S, kv, 8), (B, S, kv, 6)]
    return tuple(jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True))


def slots() -> dict:
    return {"q_slots": jnp.arange(T) + S - T, "k_slots": jnp.arange(S), "scale": 0.3}


def check(mask: Mask, q, k, v, tolerance: float = 2e-5, softcap: float | None = None, **extras: jax.Array) -> None:
    """Values and all gradients are the plain form's; queries that see nothing get zeros, and no gradient."""
    visible = mask.array(slots()["q_slots"], slots()["k_slots"])
    rows = np.ones((B, T), bool) if visible is None else np.broadcast_to(np.asarray(visible).any(-1)[:, 0], (B, T))

    def total(arrays: tuple, extras: dict, kind: str):
        with use(attention=kind):
            out = attention(*arrays, mask, **slots(), softcap=softcap, **extras)
        seen = jnp.where(rows[..., None, None], out.astype(jnp.float32), 0.0)
        return jnp.sum(jnp.sin(seen)), out

    run = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True), static_argnums=2)
    (_, plain), want = run((q, k, v), extras, "reference")
    (_, out), got = run((q, k, v), extras, "blocked")
    out, plain = np.asarray(out, np.float32), np.asarray(plain, np.float32)
    np.testing.assert_allclose(out[rows], plain[rows], atol=tolerance)
    assert not out[~rows].any()
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), atol=tolerance * 5)


@pytest.mark.parametrize("name", MASKS)
def test_every_mask(name: str) -> None:
    check(MASKS[name], *arrays())


@pytest.mark.parametrize("name", EXTRAS)
def test_bias_soft_cap_and_sinks(name: str) -> None:
    extras = dict(EXTRAS[name])
    softcap = extras.pop("softcap", None)
    extras = {key: jax.random.normal(jax.random.key(7), shape) for key, shape in extras.items()}
    check(MASKS["window"], *arrays(kv=4), softcap=softcap, **extras)


def test_bfloat16_and_one_key_head() -> None:
    check(MASKS["causal"], *arrays(kv=1, dtype="bfloat16"), tolerance=2e-2)


def test_on_a_mesh() -> None:
    """Rows over data, heads over tensor, of which there are more than of key heads; packed segments go along."""
    with use_mesh(jf.make_mesh(data=2, tensor=4), jf.TENSOR):
        check(MASKS["segments"].replace(keys=KEYS), *arrays(kv=2), sinks=jnp.arange(4.0))


def test_extreme_scores_stay_finite() -> None:
    q, k, v = arrays()
    out, back = jax.vjp(lambda q, k, v: blocked(q, k, v, MASKS["padding"], **slots()), q * 1e4, k * 1e4, v)
    assert all(np.isfinite(x).all() for x in (out, *back(out)))


def test_what_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = arrays()
    with pytest.raises(NotImplementedError, match="dense mask"):
        blocked(q, k, v, Mask(dense=jnp.ones((1, 1, T, S), bool)), **slots())
    with pytest.raises(NotImplementedError, match="numbers"):
        blocked(q, k, v, Mask(), **slots() | {"scale": jnp.float32(0.3)})
    with use_mesh(jf.make_mesh(sequence=2, data=4), jf.SEQUENCE), pytest.raises(NotImplementedError, match="ring"):
        blocked(q, k, v, Mask(), **slots())
    monkeypatch.undo()
    with watch_calls() as calls:
        attention(q.astype("bfloat16"), k.astype("bfloat16"), v.astype("bfloat16"), Mask(), **slots())
    assert calls[0].chosen == "reference" and "are few" in calls[0].refused["blocked"]


def test_sizes_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert [even(length, 1024) for length in (1024, 1500, 4097)] == [1024, 768, 832]
    assert block_size(64) == 1024 and block_size(256) == 512 and block_size(2**20) == 128


def test_memory_is_linear_in_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    def temporary(length: int) -> int:
        def run(q):
            at = {"q_slots": jnp.arange(length), "k_slots": jnp.arange(length), "scale": 0.1}
            return attention(q, q, q, Mask.causal(), **at).astype(jnp.float32).sum()

        with watch_calls() as calls:
            x = jax.ShapeDtypeStruct((1, length, 2, 64), jnp.bfloat16)
            compiled = jax.jit(jax.grad(run)).lower(x).compile()
        assert calls[0].chosen == "blocked"
        return compiled.memory_analysis().temp_size_in_bytes

    short, long = temporary(4096), temporary(16384)
    assert long < 4.5 * short
    assert long < 16384**2  # a byte for each of one head's scores
