"""The TPU kernels of recurrences compile for every generation, though no TPU is there, alone and in sharded models."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

import jaxformers as jf
from jaxformers.core.mesh import make_mesh
from jaxformers.core.sharding import use_mesh
from jaxformers.hub.abstract_model import abstract_model
from jaxformers.ops.recurrence import selective_scan, state_space_dual
from tests.aot.llama_8b import memory, record
from tests.aot.test_tpu_kernels import CHIPS, VMEM, one_chip

pytestmark = pytest.mark.slow

T = 2048
# Shapes of Mamba 2.8B and Mamba-2 2.7B: x, dt, a, b, c, state.
SELECTIVE = ((1, T, 5120), (1, T, 5120), (5120, 16), (1, T, 16), (1, T, 16), (1, 5120, 16))
DUAL = ((1, T, 80, 64), (1, T, 80), (80,), (1, T, 1, 128), (1, T, 1, 128), (1, 80, 64, 128))


def kernels(text: str) -> dict[str, int]:
    """Bytes of fast memory that each kernel in a program takes."""
    found = {}
    for line in text.splitlines():
        if 'custom_call_target="tpu_custom_call"' in line and (
            name := re.search(r"%\w*(jaxformers_[a-z]+_[a-z]+)", line)
        ):
            used = re.search(r'"used_scoped_memory_configs":\[\{"memory_space":"1","offset":"0","size":"(\d+)"', line)
            found[name[1]] = int(used[1]) if used else 0
    return found


@pytest.mark.parametrize("generation", CHIPS)
@pytest.mark.parametrize(("name", "shapes"), [("selective", SELECTIVE), ("dual", DUAL)])
def test_every_generation(name: str, shapes: tuple, generation: str) -> None:
    """With gradients; the states of all tokens, which plain JAX keeps, exist in no memory."""
    mesh = one_chip(generation)
    place = NamedSharding(mesh, PartitionSpec())
    dtypes = (jnp.bfloat16, *[jnp.float32] * 5)
    inputs = [jax.ShapeDtypeStruct(s, d, sharding=place) for s, d in zip(shapes, dtypes, strict=True)]

    def loss(*arrays):
        out = selective_scan(*arrays) if name == "selective" else state_space_dual(*arrays, size=256)
        return sum(jnp.square(z).sum() for z in out)

    with use_mesh(mesh, jf.FSDP_TENSOR):
        compiled = jax.jit(jax.grad(loss, range(6))).lower(*inputs).compile()
    found = kernels(compiled.as_text())
    assert set(found) == {f"jaxformers_{name}_forward", f"jaxformers_{name}_backward"}
    assert all(0 < size <= VMEM for size in found.values())
    record(f"vmem {name} {generation}", {kernel: size / 2**20 for kernel, size in found.items()})
    temporary = memory(compiled)["temporary"]
    record(f"temporary memory {name} {generation}", {"GiB": temporary})
    plain = T * 5120 * 16 * 4 if name == "selective" else T * 256 * 80 * 4 * 4
    assert temporary < plain / 2**30 / 2


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_in_a_sharded_model(kind: str) -> None:
    """Batch over fsdp, channels over tensor: each device computes its own."""
    chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4").devices
    mesh = make_mesh(fsdp=4, tensor=4, devices=chips)
    more = dict(num_heads=32, head_dim=64, n_groups=1, state_size=128) if kind == "mamba2" else {}
    config = jf.AutoConfig.for_model(kind, vocab_size=512, hidden_size=1024, num_hidden_layers=2, **more)
    model = abstract_model(config, task="CausalLM", mesh=mesh, rules=jf.FSDP_TENSOR, dtype=jnp.bfloat16, scan=True)
    ids = jax.ShapeDtypeStruct((8, 512), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))
    step = jax.jit(jax.grad(lambda m, ids: m(input_ids=ids).logits.astype(jnp.float32).sum()))
    assert set(kernels(step.lower(model, ids).compile().as_text())) == {
        f"jaxformers_{'selective' if kind == 'mamba' else 'dual'}_{way}" for way in ("forward", "backward")
    }
