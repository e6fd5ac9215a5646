"""Kernels that read a cache compile for every generation of TPUs, and a decode step of Llama 8B reads int8 as int8."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

import jaxformers as jf
from jaxformers.core.mask import Mask
from jaxformers.core.mesh import make_mesh
from jaxformers.core.rows import paged, quantized
from jaxformers.core.sharding import use_mesh
from jaxformers.core.stored import Paged, Ragged, Scaled
from jaxformers.hub.abstract_model import abstract_model
from jaxformers.ops.attention import attention
from tests.aot.llama_8b import GIB, LLAMA_8B, record
from tests.aot.test_tpu_kernels import CHIPS, VMEM, one_chip

pytestmark = pytest.mark.slow

B, S, H, K, D, PAGE = 4, 8192, 32, 8, 128, 128


def like(*shape: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def forms() -> dict[str, tuple[Any, jax.ShapeDtypeStruct]]:
    """Keys as every cache hands them over, and queries."""
    whole = like(1, S, K, D), like(1, 1, H, D)  # one row: its keys are split where a chip has two cores
    int8 = Scaled(like(B, S, K, D, dtype=jnp.int8), like(B, S, K, dtype=jnp.float32)), like(B, 1, H, D)
    pages, table = like(B * S // PAGE, PAGE, K, D), like(B, S // PAGE, dtype=jnp.int32)
    rows = Ragged(pages, table, like(B + 1, dtype=jnp.int32), like(B, dtype=jnp.int32)), like(1, 64, H, D)
    return {
        "one row": whole,
        "int8": int8,
        "pages": (Paged(pages, table, like(S, dtype=jnp.int32)), like(B, 1, H, D)),
        "end to end": rows,
    }


def compile_all(mesh: Any, given: dict) -> Any:
    """One program with an attention for every form, so that few are compiled."""

    def run(given: dict, keys: jax.Array, at: jax.Array) -> list:
        out = []
        for name, (k, q) in given.items():
            rules = Mask(right=0, keys=None if name == "end to end" else keys[: q.shape[0]])
            places = {"q_slots": at + jnp.arange(q.shape[1]), "k_slots": jnp.arange(S)}
            out.append(attention(q, k, k, rules, **places, scale=D**-0.5))
        return out

    place = NamedSharding(mesh, PartitionSpec())
    args = (given, like(B, S, dtype=bool), like(dtype=jnp.int32))
    args = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), args)
    with use_mesh(mesh, jf.FSDP_TENSOR):
        return jax.jit(run).lower(*args).compile()


def check_vmem(compiled: Any, name: str) -> None:
    """Record the fast memory that each kernel takes, in the order of the program, and compare it with what there is."""
    lines = [line for line in compiled.as_text().splitlines() if 'custom_call_target="tpu_custom_call"' in line]
    used = [
        re.search(r'"used_scoped_memory_configs":\[\{"memory_space":"1","offset":"0","size":"(\d+)"', x) for x in lines
    ]
    names = [re.search(r"%(jaxformers_\w+[.\d]*)", line) for line in lines]
    found = {n[1]: int(size[1]) for n, size in zip(names, used, strict=True) if n and size}
    record(f"vmem {name}", {kernel: size / 2**20 for kernel, size in found.items()})
    assert len(found) == len(lines) and all(0 < size <= VMEM for size in found.values())


@pytest.mark.parametrize("generation", CHIPS)
def test_every_generation(generation: str) -> None:
    compiled = compile_all(one_chip(generation), forms())
    calls = re.findall(r"%(jaxformers_\w+?)[.\d]* = ", compiled.as_text())
    assert sorted(calls) == ["jaxformers_decode"] * 3 + ["jaxformers_ragged"]
    check_vmem(compiled, f"{generation} decode")


def test_other_shapes() -> None:
    """On the generation with the least fast memory: narrow and wide heads, one kv head, float32, many queries."""
    given = {
        "head dim 64": (like(2, S, 8, 64), like(2, 5, 16, 64)),
        "head dim 80, float32": (like(2, S, 32, 80, dtype=jnp.float32), like(2, 1, 32, 80, dtype=jnp.float32)),
        "latents": (like(2, S, 1, 576), like(2, 1, 16, 576)),
        "many queries": (like(1, S, 2, 128), like(1, 100, 16, 128)),
        "int8, four kv heads": (
            Scaled(like(2, S, 4, 128, dtype=jnp.int8), like(2, S, 4, dtype=jnp.float32)),
            like(2, 3, 16, 128),
        ),
    }
    compiled = compile_all(one_chip("v4"), given)
    assert len(re.findall(r"%jaxformers_decode[.\d]* = ", compiled.as_text())) == len(given)
    check_vmem(compiled, "v4 decode, other shapes")


def compile_step(kind: str, layers: int, batch: int, length: int) -> tuple[Any, Any]:
    """One token of each row through Llama 8B with so many layers, the cache donated; and the cache's shapes."""
    mesh = one_chip("v5e")
    config = jf.AutoConfig.for_model("llama", **{**LLAMA_8B, "num_hidden_layers": layers})
    model = abstract_model(config, task="CausalLM", mesh=mesh, rules=jf.FSDP_TENSOR, dtype=jnp.bfloat16)
    change = {"dense": lambda cache: cache, "int8": quantized, "paged": paged}[kind]
    place = NamedSharding(mesh, PartitionSpec())
    shapes = jax.eval_shape(lambda: change(model.module.init_cache(batch, length, jnp.bfloat16)))
    cache = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)
    ids = jax.ShapeDtypeStruct((batch, 1), jnp.int32, sharding=place)

    def step(params: Any, ids: jax.Array, cache: Any) -> tuple:
        out = model.module.apply({"params": params}, input_ids=ids, past_key_values=cache)
        return out.logits, out.past_key_values

    with use_mesh(mesh, jf.FSDP_TENSOR):
        return jax.jit(step, donate_argnums=2).lower(model.params, ids, cache).compile(), shapes


@pytest.mark.parametrize("kind", ["dense", "int8", "paged"])
def test_a_decode_step_reads_the_cache_once(kind: str) -> None:
    """The kernel takes the cache's own buffers: nothing of a layer's size is made beside them."""
    compiled, cache = compile_step(kind, 2, 4, S)
    text = compiled.as_text()
    calls = [line for line in text.splitlines() if re.search(r"%jaxformers_decode[.\d]* = ", line)]
    assert len(calls) == 2 and all(("s8[4,65536,128]" in line) == (kind == "int8") for line in calls)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache.layers))
    found = compiled.memory_analysis()
    record(
        f"8B decode step, 2 layers, 4 rows of {S}, {kind}",
        {"cache": size / GIB, "temporary": found.temp_size_in_bytes / GIB},
    )
    layer = size / 2 / 2  # one layer's keys, or values
    assert found.temp_size_in_bytes < layer
    assert found.alias_size_in_bytes >= size
    wide = re.findall(r"(?:bf16|f32)\[4,(?:8192,8|65536),128\]", text)
    assert kind != "int8" or not wide


def test_heads_over_devices() -> None:
    """Each device reads its own heads of the cache, and nothing goes between devices."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    mesh = make_mesh(fsdp=2, tensor=2, devices=devices)

    def run(q: jax.Array, k: jax.Array, keys: jax.Array, at: jax.Array) -> jax.Array:
        places = {"q_slots": at + jnp.arange(1), "k_slots": jnp.arange(S)}
        return attention(q, k, k, Mask(right=0, keys=keys), **places, scale=D**-0.5)

    def spread(x: jax.ShapeDtypeStruct, *axes: str | None) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, PartitionSpec(*axes)))

    heads = ("fsdp", None, "tensor", None)
    args = (spread(like(B, 1, H, D), *heads), spread(like(B, S, K, D), *heads), spread(like(B, S, dtype=bool), "fsdp"))
    with use_mesh(mesh, jf.FSDP_TENSOR):
        text = jax.jit(run).lower(*args, spread(like(dtype=jnp.int32))).compile().as_text()
    assert "jaxformers_decode" in text
    assert not re.search(r"all-gather|all-to-all|collective-permute", text)
