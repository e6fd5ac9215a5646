"""Products with quantised matrices compile for TPUs that are not there, alone and in a decode step of Llama 8B."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

import jaxformers as jf
from jaxformers.core.mesh import make_mesh
from jaxformers.core.sharding import use_mesh
from jaxformers.hub.abstract_model import abstract_model
from jaxformers.ops.dispatch import use
from jaxformers.ops.quantized_dot import quantized_dot
from jaxformers.ops.rounding import round_matrix
from tests.aot.llama_8b import LLAMA_8B, memory, record

pytestmark = pytest.mark.slow

CHIPS = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
NAMES = {"jaxformers_quantized_dot", "jaxformers_quantized_dot_gradient"}
VMEM = 16 * 2**20  # bytes a kernel may take if it asks for no more


def mesh_of(generation: str, **axes: int) -> jax.sharding.Mesh:
    devices = topologies.get_topology_desc(platform="tpu", topology_name=CHIPS[generation]).devices
    axes = axes or {"fsdp": 1, "tensor": 1}
    return make_mesh(**axes, devices=devices[: axes["fsdp"] * axes["tensor"]])


def kernels(compiled: Any) -> dict[str, int]:
    """Bytes of fast memory that each kernel of ours in a program takes."""
    found = {}
    for line in compiled.as_text().splitlines():
        if 'custom_call_target="tpu_custom_call"' in line and (name := re.search(r"%(jaxformers_quantized\w+)", line)):
            used = re.search(r'"used_scoped_memory_configs":\[\{"memory_space":"1","offset":"0","size":"(\d+)"', line)
            found[name[1]] = int(used[1]) if used else 0
    return found


def compile_product(generation: str, kind: str, group: int | None, rows: int, outputs: int, inputs: int, dtype) -> Any:
    """The product and the gradient of x."""
    mesh = mesh_of(generation)

    def placed(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, PartitionSpec()))

    def run(x, w):
        y, back = jax.vjp(lambda x: quantized_dot(x, w), x)
        return y, back(y)

    w = jax.eval_shape(lambda w: round_matrix(w, kind, group), jax.ShapeDtypeStruct((outputs, inputs), dtype))
    x = jax.ShapeDtypeStruct((rows, inputs), dtype)
    with use_mesh(mesh, jf.FSDP_TENSOR), use(quantized_dot="pallas_tpu"):
        return jax.jit(run).lower(placed(x), jax.tree.map(placed, w)).compile()


@pytest.mark.parametrize(
    ("generation", "kind", "group", "rows", "outputs", "inputs", "dtype"),
    [
        ("v4", "int4", 128, 2048, 4096, 14336, jnp.bfloat16),
        ("v4", "int8", None, 2048, 512, 6144, jnp.float32),
        ("v5e", "int4", 128, 1, 14336, 4096, jnp.bfloat16),
        ("v5e", "fp8", None, 16, 4096, 14336, jnp.bfloat16),
        ("v5e", "int4", 64, 3, 300, 8192, jnp.bfloat16),
        ("v5e", "int8", None, 5, 96, 64, jnp.bfloat16),
        ("v5p", "int8", 128, 64, 4096, 11008, jnp.bfloat16),
        ("v6e", "fp8", 128, 16, 4096, 4096, jnp.bfloat16),
    ],
)
def test_every_kind_on_every_generation(generation: str, kind: str, group, rows: int, outputs, inputs, dtype) -> None:
    compiled = compile_product(generation, kind, group, rows, outputs, inputs, dtype)
    found = kernels(compiled)
    record(f"vmem {generation} {kind} {rows}x{inputs}x{outputs}", {k: size / 2**20 for k, size in found.items()})
    assert set(found) == NAMES and all(0 < size <= VMEM for size in found.values())


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_decode_step_holds_the_kernel_and_reads_small_weights(kind: str) -> None:
    """One token for each of eight rows through Llama 8B's layers on four v5e; the weights are never unpacked whole."""
    mesh = mesh_of("v5e", fsdp=1, tensor=4)
    config = jf.AutoConfig.for_model("llama", **{**LLAMA_8B, "num_hidden_layers": 8, "vocab_size": 1024})
    shapes = dict(task="CausalLM", mesh=mesh, rules=jf.FSDP_TENSOR, dtype=jnp.bfloat16, scan=True)
    model = jf.quantize(abstract_model(config, **shapes), kind)
    place = NamedSharding(mesh, PartitionSpec())

    def placed(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

    cache = jax.tree.map(placed, jax.eval_shape(lambda: model.init_cache(8, 512)))

    def step(model, ids, cache):
        out = model(input_ids=ids, past_key_values=cache)
        return out.logits, out.past_key_values

    ids = jax.ShapeDtypeStruct((8, 1), jnp.int32, sharding=place)
    compiled = jax.jit(step, donate_argnums=2).lower(model, ids, cache).compile()
    assert set(kernels(compiled)) == {"jaxformers_quantized_dot"}
    assert "custom-call" in compiled.as_text() and len(re.findall(r"= .*tpu_custom_call", compiled.as_text())) >= 7
    found = record(f"decode step, 8 layers of llama 8B, {kind}, v5e:2x2", memory(compiled))
    layers = 8 * 218_103_808 * (1 if kind == "int8" else 0.5 + 2 / 128) / 4 / 2**30
    assert layers < found["arguments"] < layers * 1.1 + 0.2
    assert found["temporary"] < 0.1
