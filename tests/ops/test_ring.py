"""Ring attention on virtual devices: the plain form's values and gradients, with nothing as long as the sequence."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.core.mask import Mask
from jaxformers.core.mesh import make_mesh
from jaxformers.core.sharding import FSDP, SEQUENCE, use_mesh
from jaxformers.ops import ring, ring_blocks, ring_flash
from jaxformers.ops.attention import attention, reference
from jaxformers.ops.dispatch import use
from jaxformers.ops.ring import ring_attention
from jaxformers.ops.zigzag import zigzag_steps

B, T, H, D = 2, 32, 4, 8
RNG = np.random.RandomState(0)
REAL = np.arange(T)[None] >= np.array([[0], [5]])
SEGMENTS = np.sort(RNG.randint(0, 3, (B, T)), axis=1)
BIAS = RNG.randn(1, H, T, T).astype(np.float32)
BY_KEY = RNG.randn(B, H, 1, T).astype(np.float32)
DOCUMENTS = Mask.causal().replace(q_segments=SEGMENTS, k_segments=SEGMENTS)

# name: (mesh, key heads, mask, other arguments)
CASES = {
    "all visible": (dict(sequence=8), 4, Mask(), {}),
    "causal, balanced": (dict(sequence=8), 2, Mask.causal(), {}),
    "padding": (dict(data=2, sequence=4), 4, Mask.causal(REAL), {}),
    "a window": (dict(data=2, sequence=4), 2, Mask.causal().within(6), {}),
    "a window both ways": (dict(sequence=4, tensor=2), 2, Mask().around(5), {}),
    "documents": (dict(data=2, sequence=2, tensor=2), 4, DOCUMENTS, {}),
    "a prefix": (dict(sequence=8), 4, Mask.causal().replace(prefix=np.array([3, 20])), {}),
    "a softcap": (dict(sequence=2, tensor=4), 2, Mask.causal(), dict(softcap=3.0)),
    "a bias": (dict(sequence=4, tensor=2), 2, Mask.causal(REAL), dict(bias=BIAS)),
    "a bias of keys alone": (dict(data=2, sequence=4), 4, Mask.causal(), dict(bias=BY_KEY)),
    "sinks": (dict(data=2, sequence=2, tensor=2), 2, Mask.causal(), dict(sinks=RNG.randn(H).astype(np.float32))),
}  # fmt: skip

QUICK = ("causal, balanced", "documents", "a bias", "sinks")


def inputs(kv_heads: int, length: int = T) -> tuple[np.ndarray, ...]:
    return tuple(RNG.randn(B, length, heads, D).astype(np.float32) for heads in (H, kv_heads, kv_heads))


def run(way, q, k, v, mask, extra: dict):
    slots = {"q_slots": jnp.arange(q.shape[1]), "k_slots": jnp.arange(k.shape[1])}
    return way(q, k, v, mask, **slots, scale=D**-0.5, **extra)


def both(name: str, dtype=jnp.float32):
    """Values and gradients of the plain form and of the ring, and the ring's program."""
    axes, kv_heads, mask, options = CASES[name]
    extra = {n: x for n, x in options.items() if n != "softcap"}
    static = {n: x for n, x in options.items() if n == "softcap"}
    arrays = tuple(x.astype(dtype) for x in inputs(kv_heads))
    visible = mask.array(jnp.arange(T), jnp.arange(T))
    rows = np.ones((1, T)) if visible is None else np.asarray(visible).any(axis=(1, 3))
    rows = rows[:, :, None, None]  # what a query computes that sees nothing means nothing
    target = RNG.randn(B, T, H, D).astype(np.float32) * rows

    def loss(way, arrays, extra):
        out = run(way, *arrays, mask, extra | static)
        return (out.astype(jnp.float32) * target).sum(), out * rows

    wide = (tuple(x.astype(jnp.float32) for x in arrays), extra)
    want = jax.jit(jax.value_and_grad(lambda a: loss(reference, *a), has_aux=True))(wide)
    with use_mesh(make_mesh(**axes), SEQUENCE):
        step = jax.jit(jax.value_and_grad(lambda a: loss(attention, *a), has_aux=True))
        program = step.lower((arrays, extra)).compile()
    return want, program((arrays, extra)), program.as_text()


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_same_values_and_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "BLOCK", 2)  # several blocks on each device, some of them never seen
    (want, wanted), (got, found), program = both(name)
    np.testing.assert_allclose(got[1], want[1], atol=2e-6)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert "collective-permute" in program
    gathers = [line for line in program.splitlines() if re.search(r"all-gather(-start)?\(.*dimensions=\{1\}", line)]
    assert not gathers, "nobody has all keys"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["causal, balanced", "padding", "documents", "sinks", "a window"])
def test_turns_by_the_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted: the flash kernel computes each turn, and gives the same."""
    monkeypatch.setattr(ring_flash, "serves", lambda *given: True)
    (want, wanted), (got, found), program = both(name)
    np.testing.assert_allclose(got[1], want[1], atol=5e-6)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    assert "collective-permute" in program


def test_bfloat16_is_summed_in_float32() -> None:
    (want, wanted), (got, found), _ = both("causal, balanced", jnp.bfloat16)
    assert got[1].dtype == jnp.bfloat16
    np.testing.assert_allclose(got[1].astype(np.float32), want[1], atol=0.02)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), b, atol=0.06)


def test_no_array_grows_with_the_square_of_the_length() -> None:
    """Four times the length takes about four times the memory, forward and backward."""

    def memory(length: int) -> int:
        shapes = [jax.ShapeDtypeStruct((1, length, heads, D), jnp.float32) for heads in (H, 2, 2)]
        layers = jax.ShapeDtypeStruct((2,), jnp.float32)

        def loss(arrays, layers):
            q, k, v = arrays
            # Under a scan jax computes beforehand what does not change from layer to layer, as masks.
            layer = lambda x, w: (run(ring_attention, x * w, k, v, Mask.causal(), {}), None)  # noqa: E731
            return jax.lax.scan(layer, q, layers)[0].sum()

        with use_mesh(make_mesh(sequence=8), SEQUENCE):
            compiled = jax.jit(jax.grad(loss)).lower(tuple(shapes), layers).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    short, long = memory(2**14), memory(2**16)
    scores = 4 * H * (2**16 // 8) ** 2
    assert long < 4.2 * short and long < scores / 4


def test_half_of_a_causal_ring_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Balanced, each device computes about half of its blocks, and all devices equally many."""
    monkeypatch.setattr(ring, "BLOCK", 4)
    seen: list[tuple[int, int]] = []
    real = ring_blocks.may_see

    def counting(*given):
        visible = real(*given)
        jax.debug.callback(lambda d, v: seen.append((int(d), int(v))), jax.lax.axis_index("sequence"), visible)
        return visible

    monkeypatch.setattr(ring_blocks, "may_see", counting)
    with use_mesh(make_mesh(sequence=4, devices=jax.devices()[:4]), SEQUENCE):
        jax.block_until_ready(jax.jit(lambda *a: run(ring_attention, *a, Mask.causal(), {}))(*inputs(2)))
        jax.effects_barrier()
    work = [sum(v for d, v in seen if d == device) for device in range(4)]
    assert len(seen) == 4 * 4 * 4 and set(work) == {9}, work


@pytest.mark.parametrize("size", [2, 3, 8])
def test_zigzag_gives_each_device_two_pieces(size: int) -> None:
    for steps in zigzag_steps(size):
        assert sorted(there for _, there in steps) == list(range(size))
    held: dict[int, list[int]] = {}
    for half, steps in enumerate(zigzag_steps(size)):
        for here, there in steps:
            held.setdefault(there, []).append(2 * here + half)
    assert all(sorted(pieces) == [i, 2 * size - 1 - i] for i, pieces in held.items())


def test_the_rules_choose() -> None:
    """`("keys", None)` gathers keys; other rules, short queries and dense masks know no ring."""
    q, k, v = inputs(4)
    one = q[:, :1]
    dense = Mask(dense=np.ones((1, 1, T, T), bool))
    with use_mesh(make_mesh(data=2, sequence=4), (*SEQUENCE, ("keys", None))):
        with pytest.raises(NotImplementedError, match="no common axis"):
            run(ring_attention, q, k, v, Mask.causal(), {})
    with use_mesh(make_mesh(data=2, sequence=4), SEQUENCE):
        with pytest.raises(NotImplementedError, match="no common axis"):
            run(ring_attention, one, k, v, Mask(), {})
        with pytest.raises(NotImplementedError, match="dense mask"):
            run(ring_attention, q, k, v, dense, {})
        np.testing.assert_allclose(run(attention, q, k, v, dense, {}), run(reference, q, k, v, dense, {}), atol=1e-6)
        with use(attention="reference"):
            assert "collective-permute" not in str(jax.make_jaxpr(lambda a: run(attention, a, k, v, Mask(), {}))(q))
    with use_mesh(make_mesh(fsdp=8), FSDP), pytest.raises(NotImplementedError, match="no common axis"):
        run(ring_attention, q, k, v, Mask(), {})
    with pytest.raises(NotImplementedError, match="no mesh"):
        run(ring_attention, q, k, v, Mask(), {})


def test_keys_of_another_length() -> None:
    """Cross-attention: queries and keys of two lengths, both cut along the ring."""
    q, (_, k, v) = inputs(4)[0], inputs(4, 48)
    with use_mesh(make_mesh(data=2, sequence=4), SEQUENCE):
        got = jax.jit(lambda *a: run(attention, *a, Mask(), {}))(q, k, v)
        assert re.search(
            "collective.permute", jax.jit(lambda *a: run(attention, *a, Mask(), {})).lower(q, k, v).as_text()
        )
    np.testing.assert_allclose(got, run(reference, q, k, v, Mask(), {}), atol=2e-6)
