"""Rounding to QTensors: nearest values, least error, exact packing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.core.qtensor import pack, parts_of, span_of, unpack
from jaxformers.ops.rounding import round_matrix


def weights(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(3), shape)


def off_by(w: jax.Array, **options) -> float:
    """The relative error of a rounded matrix."""
    wrong = round_matrix(w, **options).dequantize(jnp.float32) - w
    return float(jnp.linalg.norm(wrong) / jnp.linalg.norm(w))


def test_int8_is_within_half_a_scale() -> None:
    w = weights(24, 64)
    q = round_matrix(w, "int8")
    assert q.values.dtype == jnp.int8 and q.scale.shape == (1, 24)
    assert (abs(q.dequantize() - w) <= q.scale.T / 2 * 1.0001).all()


def test_fp8_is_within_a_sixteenth() -> None:
    w = weights(24, 64)
    q = round_matrix(w, "fp8")
    assert q.values.dtype == jnp.float8_e4m3fn
    normal = abs(w) > q.scale.T * 2.0**-6
    assert (abs(q.dequantize() - w) <= jnp.where(normal, abs(w) / 16, q.scale.T * 2.0**-9)).all()


def test_int4_errs_less_than_without_the_search() -> None:
    w = weights(32, 256)
    scale = jnp.abs(w.reshape(32, 2, 128)).max(-1, keepdims=True) / 7
    plain = (jnp.round(w.reshape(32, 2, 128) / scale) * scale).reshape(w.shape)
    unclipped = float(jnp.linalg.norm(plain - w) / jnp.linalg.norm(w))
    assert off_by(w, kind="int4", group_size=128) < 0.9 * unclipped


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
def test_smaller_groups_err_less_and_layers_are_rounded_alike(kind: str) -> None:
    w = weights(2, 16, 128)
    assert off_by(w, kind=kind, group_size=32) < off_by(w, kind=kind)
    q, one = round_matrix(w, kind, 32), round_matrix(w[1], kind, 32)
    assert q.shape == w.shape and q.size == w.size and q.group_size == 32 and len(q) == 2
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(q[1]), jax.tree.leaves(one), strict=True))
    turned = round_matrix(jnp.swapaxes(w, 1, 2), kind, 32, turned=True)
    np.testing.assert_array_equal(turned.dequantize(), jnp.swapaxes(q.dequantize(), 1, 2))
    assert q.nbytes == q.values.nbytes + q.scale.nbytes < w.nbytes / 3


@pytest.mark.parametrize(("inputs", "group"), [(256, 64), (192, 64), (64, 64), (6, 2)])
def test_packing_is_exact(inputs: int, group: int) -> None:
    values = np.random.default_rng(0).integers(-8, 8, (3, inputs)).astype(np.int8)
    span = span_of(inputs, group)
    packed = pack(values, span)
    assert packed.shape == (3, inputs // 2) and packed.dtype == np.uint8
    np.testing.assert_array_equal(unpack(packed, span, np), values)
    np.testing.assert_array_equal(unpack(jnp.asarray(packed), span), values)


def test_scales_and_dtypes() -> None:
    q = round_matrix(weights(8, 64).astype(jnp.bfloat16), "int8")
    assert q.scale.dtype == q.dtype == q.dequantize().dtype == jnp.bfloat16
    wide = q.astype(jnp.float32)
    assert wide.dtype == jnp.float32 and wide.scale.dtype == jnp.bfloat16
    assert round_matrix(weights(8, 64), "fp8", dtype=jnp.bfloat16).scale.dtype == jnp.bfloat16


def test_names_of_axes() -> None:
    q = round_matrix(weights(2, 4, 16, 64), "int8", 32, axes=("expert", "mlp", "embed"))
    names = {path: names for path, (_, names) in parts_of({"a": {"kernel": q}}).items()}
    assert names == {
        ("a", "kernel", "values"): ("layers", "expert", "mlp", "embed"),
        ("a", "kernel", "scale"): ("layers", "expert", "embed", "mlp"),
    }
    assert q[0][0].names == {"values": ("mlp", "embed"), "scale": ("embed", "mlp")}
    assert round_matrix(weights(4, 8), "int8", axes=("mlp", "embed")).names["scale"] == (None, "mlp")


def test_sizes_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="pass group_size=32"):
        round_matrix(weights(4, 96), "int4", 128)
    with pytest.raises(ValueError, match="expected one of"):
        round_matrix(weights(4, 96), "int2")
    with pytest.raises(ValueError, match="two numbers in a byte"):
        round_matrix(weights(4, 7), "int4")
