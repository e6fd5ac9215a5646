"""Llama at 8B shape, compiled ahead of time for a TPU v5e:4x4 that is not there: it fits, and how much it takes."""

import re

import jax
import pytest
from jax.experimental import topologies

from tests.aot.llama_8b import compile_forward, compile_train_step, memory, record

pytestmark = pytest.mark.slow

HBM = 16.0  # GiB of one v5e chip


def tpu_mesh(fsdp: int, tensor: int) -> jax.sharding.Mesh:
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4")
    return topologies.make_mesh(topology, (fsdp, tensor), ("fsdp", "tensor"))


def test_forward_compiles_and_fits() -> None:
    compiled = compile_forward(tpu_mesh(4, 4), 8, 2048)
    found = record("llama 8B forward, bfloat16, 8 x 2048 tokens, v5e:4x4 as fsdp 4 x tensor 4", memory(compiled))
    # 8.03e9 parameters of 2 bytes over 16 chips are 0.94 GiB
    assert 0.9 < found["arguments"] < 1.0
    assert found["arguments"] + found["temporary"] + found["output"] < HBM
    text = compiled.as_text()
    assert "all-gather" in text and "jaxformers_flash_forward" in text


def test_train_step_compiles_and_fits() -> None:
    compiled = compile_train_step(tpu_mesh(16, 1), 16, 2048)
    found = record(
        "llama 8B train step, float32 adamw, bfloat16 compute, full remat, 16 x 2048, v5e:4x4 fsdp 16", memory(compiled)
    )
    # weights and two moments of 4 bytes: 96.4e9 bytes over 16 chips are 5.6 GiB, given and taken back in place
    assert 5.5 < found["arguments"] < 5.8
    assert found["aliased"] > 5.5
    assert found["arguments"] + found["temporary"] < HBM
    text = compiled.as_text()
    kernels = {"jaxformers_flash_forward", "jaxformers_flash_query_gradient", "jaxformers_flash_key_gradients"}
    assert kernels <= set(re.findall(r"%(jaxformers_flash_[a-z_]+)", text))
    # The plain form of attention asks for 6.4 GiB.
    assert found["temporary"] < 5.5
    assert "all-gather" in text and ("reduce-scatter" in text or "all-reduce" in text)
