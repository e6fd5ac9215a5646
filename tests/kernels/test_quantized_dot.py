"""Products with quantised matrices, kernel and reference, against float64: values and the gradient of x."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.core.qtensor import QTensor
from jaxformers.kernels.quantized.blocks import plan
from jaxformers.ops.dispatch import use, watch_calls
from jaxformers.ops.quantized_dot import MOST, op, quantized_dot
from jaxformers.ops.rounding import round_matrix


class Case(NamedTuple):
    """x [rows,inputs] times a matrix [outputs,inputs]."""

    kind: str
    group: int | None
    rows: int
    outputs: int
    inputs: int
    dtype: type = jnp.bfloat16


CASES = [
    Case("int8", None, 3, 300, 256),
    Case("int8", 32, 5, 64, 96, jnp.float32),
    Case("int8", 128, 1, 40, 1280),
    Case("int4", 128, 20, 270, 256),
    Case("int4", 128, 17, 96, 896, jnp.float32),  # an odd number of groups
    Case("int4", None, 4, 40, 64),
    Case("int4", 64, 2, 130, 2560),  # several blocks of inputs
    Case("fp8", None, 17, 600, 64),
    Case("fp8", 128, 2, 520, 7168, jnp.float32),
]


def made(case: Case) -> tuple[jax.Array, QTensor, jax.Array]:
    """x, the matrix and a gradient of the product."""
    keys = jax.random.split(jax.random.key(len(case.kind) + case.inputs), 3)
    w = jax.random.normal(keys[0], (case.outputs, case.inputs)) * 0.05
    x = jax.random.normal(keys[1], (case.rows, case.inputs)).astype(case.dtype)
    grad = jax.random.normal(keys[2], (case.rows, case.outputs)).astype(case.dtype)
    return x, round_matrix(w, case.kind, case.group, dtype=case.dtype), grad


def in_float64(w: QTensor) -> np.ndarray:
    """The matrix [out,in] that w stands for, by numpy."""
    values = np.asarray(w.unpacked().astype(jnp.float32), np.float64)
    return values * np.repeat(np.asarray(w.scale, np.float64).T, w.group_size, axis=1)


def error(found: jax.Array, truth: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(found, np.float64) - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case: Case) -> None:
    x, w, grad = made(case)
    whole = in_float64(w)
    truth, d_x = np.asarray(x, np.float64) @ whole.T, np.asarray(grad, np.float64) @ whole
    errors = {}
    for name in ("pallas_tpu", "reference"):
        with use(quantized_dot=name):
            y, back = jax.vjp(lambda x: quantized_dot(x, w), x)
        assert y.dtype == x.dtype and y.shape == truth.shape
        errors[name] = error(y, truth), error(back(grad)[0], d_x)
    most = 3e-3 if case.dtype == jnp.bfloat16 else 1e-6
    assert max(errors["pallas_tpu"] + errors["reference"]) < most
    # Values are exact in the kernel; the reference rounds a matrix that is scaled by groups.
    assert errors["pallas_tpu"][0] <= errors["reference"][0] * 1.05 + 1e-6


def test_a_kernel_of_experts_is_multiplied_the_other_way_round() -> None:
    w = jax.random.normal(jax.random.key(0), (96, 40))
    x = jax.random.normal(jax.random.key(1), (2, 3, 96))
    turned = round_matrix(w, "int8", turned=True)
    assert turned.shape == (96, 40) and turned.values.shape == (40, 96)
    for name in ("pallas_tpu", "reference"):
        with use(quantized_dot=name):
            np.testing.assert_allclose(quantized_dot(x, turned), x @ turned.dequantize(), rtol=1e-4, atol=1e-4)


def test_extreme_values_are_finite() -> None:
    w = jnp.concatenate([jnp.zeros((1, 128)), jnp.full((1, 128), 1e30), jnp.full((1, 128), 1e-38)])
    for kind in ("int8", "int4", "fp8"):
        q = round_matrix(w, kind, dtype=jnp.bfloat16)
        assert jnp.isfinite(q.dequantize(jnp.float32)).all()
        with use(quantized_dot="pallas_tpu"):
            assert jnp.isfinite(quantized_dot(jnp.ones((1, 128)), q)[:, (0, 2)]).all()


def test_weights_have_no_gradient() -> None:
    x, w, _ = made(CASES[0])
    with pytest.raises(TypeError, match="train an adapter"):
        jax.grad(lambda scale: quantized_dot(x, w.replace(scale=scale)).sum())(w.scale)


def test_refusals() -> None:
    x, w, _ = made(CASES[0])
    with watch_calls() as calls:
        quantized_dot(x, w)
        with use(quantized_dot=("pallas_tpu", "reference")):
            jax.eval_shape(quantized_dot, jnp.zeros((MOST + 1, w.inputs)), w)
            jax.eval_shape(quantized_dot, jnp.zeros((1, w.inputs), jnp.float16), w)
    assert [call.chosen for call in calls] == ["reference"] * 3
    reasons = [call.refused["pallas_tpu"] for call in calls]
    assert [any(word in why for why in reasons) for word in ("for tpu", "rows", "float16")] == [True] * 3
    assert "pallas_tpu" in op.known()


def test_blocks_hold_whole_groups() -> None:
    sizes = [(14336, 128, 256), (11008, 128, 256), (11008, 11008, 0), (8192, 64, 128), (896, 128, 128)]
    for inputs, group, span in sizes:
        cut = plan(inputs, 512, group, span)
        assert inputs % cut.depth == 0 and (cut.groups == 1 or cut.depth % group == 0) and cut.depth % (span or 1) == 0
        covered = sorted(n for piece in cut.pieces() for n in range(piece.inputs.start, piece.inputs.stop))
        assert covered == list(range(cut.depth))
    with pytest.raises(NotImplementedError, match="cannot be cut"):
        plan(6145, 8, 6145, 0)
