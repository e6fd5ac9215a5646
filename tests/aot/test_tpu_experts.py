"""The kernel for experts' gradients compiles for every generation of TPUs, and saves what masking costs."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxformers as jf
from jaxformers.core.sharding import use_mesh
from jaxformers.ops.dispatch import use
from jaxformers.ops.grouped_product import grouped_product
from tests.aot.llama_8b import record
from tests.aot.test_tpu_kernels import CHIPS, VMEM, one_chip

pytestmark = pytest.mark.slow

ROWS, INPUTS, OUTPUTS, EXPERTS = 4096, 4096, 3584, 8  # a quarter of Mixtral 8x7B's hidden axis
PRODUCT = 2 * ROWS * INPUTS * OUTPUTS  # floating point operations


def gradient(generation: str, dtype=jnp.bfloat16):
    """The compiled gradient of a product, for rows and kernels."""
    mesh = one_chip(generation)
    place = NamedSharding(mesh, PartitionSpec())
    shapes = ((ROWS, INPUTS), dtype), ((EXPERTS, INPUTS, OUTPUTS), dtype), ((EXPERTS,), jnp.int32)
    inputs = [jax.ShapeDtypeStruct(*one, sharding=place) for one in shapes]

    def loss(x, kernels, sizes):
        return jnp.square(grouped_product(x, kernels, sizes).astype(jnp.float32)).sum()

    with use_mesh(mesh, jf.FSDP_TENSOR):
        return jax.jit(jax.grad(loss, (0, 1))).lower(*inputs).compile()


@pytest.mark.parametrize("generation", CHIPS)
def test_every_generation(generation: str) -> None:
    text = gradient(generation).as_text()
    line = next(one for one in text.splitlines() if "custom_call" in one and "jaxformers_expert_gradient" in one)
    used = int(re.search(r'"memory_space":"1","offset":"0","size":"(\d+)"', line)[1])  # type: ignore[index]
    record(f"vmem expert gradient {generation}", {"MiB": used / 2**20})
    assert 0 < used <= VMEM


def test_float32() -> None:
    assert "jaxformers_expert_gradient" in gradient("v5e", jnp.float32).as_text()


def test_without_it_there_is_a_product_for_each_expert() -> None:
    """What XLA counts for its own form; kernels are not counted."""
    with use(grouped_product="reference"):
        plain = gradient("v5e").cost_analysis()["flops"]
    kernel = gradient("v5e").cost_analysis()["flops"]
    record(
        "operations of the gradient, in products", {"plain": plain / PRODUCT, "kernel, its own apart": kernel / PRODUCT}
    )
    assert plain - kernel > 0.9 * EXPERTS * PRODUCT
