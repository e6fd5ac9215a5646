"""Rings, exchanges of experts, stages and several slices, compiled for TPUs that are not there."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies

import jaxformers as jf
from jaxformers.core.sharding import Rules
from jaxformers.hub.abstract_model import abstract_model
from jaxformers.planning.hlo import collectives as exchanges
from tests.training.parallel import collectives, cut_shapes

pytestmark = pytest.mark.slow

SIZES = dict(vocab_size=512, hidden_size=256, num_hidden_layers=4, intermediate_size=512, max_position_embeddings=4096)
SIZES |= dict(num_attention_heads=4, num_key_value_heads=4, head_dim=64)


def mesh_of(name: str, slices: int = 1, **axes: int) -> jax.sharding.Mesh:
    options = {} if slices == 1 else {"num_slices": slices}
    topology = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    return jf.make_mesh(**axes, devices=topology.devices)


def compile_gradient(kind: str, mesh: jax.sharding.Mesh, rules: Rules, length: int, **fields):
    """The gradient of a sum of squared logits, bfloat16, scanned; returns (model of shapes, collectives, memory)."""
    config = jf.AutoConfig.for_model(kind, **{**SIZES, **fields})
    model = abstract_model(config, task="CausalLM", mesh=mesh, rules=rules, compute_dtype="bfloat16", scan=True)
    places = jax.tree.map(lambda x: x.sharding, model)

    def loss(model: jf.Model, ids: jax.Array) -> jax.Array:
        return jnp.square(model(input_ids=ids).logits.astype(jnp.float32)).sum()

    ids = jax.ShapeDtypeStruct((16, length), jnp.int32, sharding=jax.NamedSharding(mesh, jax.P(None)))
    compiled = jax.jit(jax.grad(loss), out_shardings=places).lower(model, ids).compile()
    return model, collectives(compiled.as_text()), compiled.memory_analysis()


def test_a_ring() -> None:
    mesh = mesh_of("v5e:4x4", fsdp=4, sequence=4)
    model, moved, short = compile_gradient("llama", mesh, jf.SEQUENCE, 4096)
    assert "collective-permute" in moved
    assert not cut_shapes(model) & set(moved["all-gather"])
    assert all(4096 not in shape for shape in moved["all-gather"]), "nobody has all keys"
    _, _, long = compile_gradient("llama", mesh, jf.SEQUENCE, 16384)
    assert long.temp_size_in_bytes < 4.5 * short.temp_size_in_bytes


def test_experts() -> None:
    mesh = mesh_of("v5e:4x4", fsdp=4, expert=2, tensor=2)
    model, moved, _ = compile_gradient("mixtral", mesh, jf.EXPERT, 512, num_local_experts=8)
    assert "all-to-all" in moved and "all-reduce" in moved
    assert not cut_shapes(model) & set(moved["all-gather"])


def test_two_slices() -> None:
    """Data lie across slices, everything that exchanges more inside one."""
    mesh = mesh_of("v5e:4x4", 2, data=2, fsdp=4, tensor=4)
    assert [{d.slice_index for d in part.flat} for part in mesh.devices] == [{0}, {1}]
    _, moved, _ = compile_gradient("llama", mesh, jf.FSDP_TENSOR, 512)
    assert "all-gather" in moved
    mesh = mesh_of("v5e:4x4", 2, fsdp=8, tensor=4)
    assert [{d.slice_index for d in part.flat} for part in mesh.devices] == [{0}] * 4 + [{1}] * 4


def test_stages() -> None:
    """On different slices, with the flash kernel inside: only hidden states go from one slice to the other."""
    mesh = mesh_of("v5e:4x4", 2, stage=2, fsdp=4, tensor=4)
    assert [{d.slice_index for d in part.flat} for part in mesh.devices] == [{0}, {1}]
    config = jf.AutoConfig.for_model("llama", **SIZES)
    model = abstract_model(config, task="CausalLM", mesh=mesh, rules=jf.PIPELINE, compute_dtype="bfloat16", scan=True)
    places = jax.tree.map(lambda x: x.sharding, model)
    ids = jax.ShapeDtypeStruct((16, 512), jnp.int32, sharding=jax.NamedSharding(mesh, jax.P(None)))

    def loss(model: jf.Model, ids: jax.Array) -> jax.Array:
        return jnp.square(model(input_ids=ids).logits.astype(jnp.float32)).sum()

    text = jax.jit(jax.grad(loss), out_shardings=places).lower(model, ids).compile().as_text()
    assert "tpu_custom_call" in text
    across = [one for one in exchanges(text) if one.between_slices]
    often = [one for one in across if one.runs > 1]
    hidden = 16 // 4 // 4 * 512 * 256 * 2  # bytes of a microbatch's one row on each device
    assert often and {(one.kind, one.runs, one.moved) for one in often} == {("collective-permute", 4 + 1, hidden)}
