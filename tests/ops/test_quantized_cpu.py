"""Products with quantised matrices in blocks of outputs: the reference's values and gradients, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.core.sharding import use_mesh
from jaxformers.ops import quantized_cpu
from jaxformers.ops.dispatch import use, watch_calls
from jaxformers.ops.quantized_dot import quantized_dot
from jaxformers.ops.rounding import round_matrix


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized_cpu, "FEW_NUMBERS", 0)


@pytest.mark.parametrize(("kind", "group"), [("int8", None), ("int8", 32), ("int4", 32), ("int4", 96), ("fp8", None)])
def test_it_computes_what_the_reference_does(kind: str, group: int | None) -> None:
    w = round_matrix(jax.random.normal(jax.random.key(0), (192, 96)), kind, group)
    x = jax.random.normal(jax.random.key(1), (2, 3, 96))
    found = {}
    for name in ("cpu", "reference"):
        with use(quantized_dot=name):
            y, back = jax.vjp(lambda x: quantized_dot(x, w), x)
            found[name] = y, back(jnp.cos(y))[0]
    for one, two in zip(*found.values(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=2e-4)
    with watch_calls() as calls:
        assert quantized_dot(x.astype(jnp.bfloat16), w).dtype == jnp.bfloat16
    assert calls[0].chosen == "cpu"


def test_every_float_of_eight_bits_is_exact() -> None:
    bytes_ = jnp.array([n for n in range(256) if n & 0x7F != 0x7F], jnp.uint8)
    truth = jax.lax.bitcast_convert_type(bytes_, jnp.float8_e4m3fn).astype(jnp.float32)
    np.testing.assert_array_equal(jax.jit(quantized_cpu.floats)(bytes_), truth)


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    def why(outputs: int) -> str:
        w = round_matrix(jnp.ones((outputs, 8)), "int8")
        with watch_calls() as calls:
            jax.eval_shape(lambda x: quantized_dot(x, w), jnp.ones((1, 8)))
        return calls[0].refused.get("cpu", "")

    assert why(128) == "" and "by 64 outputs" in why(100)
    with use_mesh(jf.make_mesh(fsdp=2, devices=jax.devices()[:2])):
        assert "spread over a mesh" in why(128)
    monkeypatch.undo()
    assert "262144 and more" in why(128)
