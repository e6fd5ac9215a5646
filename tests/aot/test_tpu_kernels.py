"""Every TPU kernel compiles for every generation of TPUs, though none is there; its use of fast memory is recorded."""

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
from jaxformers.core.sharding import spec, use_mesh
from jaxformers.ops.attention import attention
from jaxformers.planning.compiled import QUICK
from tests.aot.llama_8b import memory, record

pytestmark = pytest.mark.slow

CHIPS = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
NAMES = {"jaxformers_flash_forward", "jaxformers_flash_query_gradient", "jaxformers_flash_key_gradients"}
VMEM = 16 * 2**20  # bytes a kernel may take if it asks for no more


def one_chip(generation: str) -> jax.sharding.Mesh:
    devices = topologies.get_topology_desc(platform="tpu", topology_name=CHIPS[generation]).devices
    return make_mesh(fsdp=1, tensor=1, devices=devices[:1])


def make_mask(kind: str, ids: jax.Array) -> Mask:
    """A mask of every kind from the segments of tokens [B,T]."""
    causal = Mask(right=0)
    return {
        "full": Mask(),
        "causal": causal,
        "window": causal.within(1024),
        "around": Mask().around(512),
        "prefix": Mask(right=0, prefix=ids[:, 0]),
        "padding": Mask(right=0, keys=ids > 0),
        "segments": Mask(right=0, q_segments=ids, k_segments=ids),
    }[kind]


def compile_attention(mesh, shape: tuple[int, ...], dtype=jnp.bfloat16, kind="causal", grad=True, **options) -> Any:
    """Attention of (batch, length, heads, kv heads, head dim, value dim) and its gradients; options are shapes."""
    b, t, h, kv, d, dv = shape
    softcap = options.pop("softcap", None)

    def like(shape: tuple[int, ...], dtype: Any, sharding: Any = None) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding or NamedSharding(mesh, PartitionSpec()))

    def run(q, k, v, extras, ids):
        slots = {"q_slots": jnp.arange(t), "k_slots": jnp.arange(t)}
        out = attention(q, k, v, make_mask(kind, ids), scale=d**-0.5, softcap=softcap, **slots, **extras)
        return out.astype(jnp.float32).sum() if grad else out

    extras = {name: like(size, jnp.float32) for name, size in options.items()}
    names = ("batch", "length", "heads", None)
    sizes = [(b, t, heads, size) for heads, size in ((h, d), (kv, d), (kv, dv))]
    places = [NamedSharding(mesh, spec(names, size, mesh, jf.FSDP_TENSOR)) for size in sizes]
    inputs = [like(size, dtype, place) for size, place in zip(sizes, places, strict=True)]
    program = jax.jit(jax.grad(run, (0, 1, 2, 3)) if grad else run)
    with use_mesh(mesh, jf.FSDP_TENSOR):
        return program.lower(*inputs, extras, like((b, t), jnp.int32)).compile(QUICK["tpu"])


def vmem(compiled: Any) -> dict[str, int]:
    """Bytes of fast memory that each kernel in a program takes."""
    found = {}
    for line in compiled.as_text().splitlines():
        if 'custom_call_target="tpu_custom_call"' in line and (name := re.search(r"%(jaxformers_\w+)", line)):
            used = re.search(r'"used_scoped_memory_configs":\[\{"memory_space":"1","offset":"0","size":"(\d+)"', line)
            found[name[1]] = int(used[1]) if used else 0
    return found


def check(compiled: Any, name: str) -> None:
    found = vmem(compiled)
    assert set(found) == NAMES
    record(f"vmem {name}", {kernel: size / 2**20 for kernel, size in found.items()})
    assert all(0 < size <= VMEM for size in found.values())


# (batch, length, heads, kv heads, head dim, value dim): every generation, head dimension, mask, dtype, kind of bias,
# and short, long and uneven lengths in few programs. v4 has the least fast memory.
CASES = {
    "v4 head dim 64, a whole bias": ("v4", (2, 2048, 4, 4, 64, 64), {"bias": (1, 4, 2048, 2048), "kind": "full"}),
    "v4 head dim 256, float32": ("v4", (1, 2048, 4, 2, 256, 256), {"dtype": jnp.float32}),
    "v4 1500 tokens, window, soft cap, ALiBi, sinks": (
        "v4",
        (2, 1500, 4, 2, 128, 128),
        {"kind": "window", "softcap": 50.0, "bias": (1, 4, 1, 1500), "sinks": (4,)},
    ),
    "v5e head dim 72, around": ("v5e", (1, 1024, 4, 4, 72, 72), {"kind": "around"}),
    "v5e head dim 256, segments": ("v5e", (2, 2048, 8, 2, 256, 256), {"kind": "segments"}),
    "v5p head dim 80, prefix": ("v5p", (2, 1024, 4, 4, 80, 80), {"kind": "prefix"}),
    "v5p head dims 192 and 128, padding": ("v5p", (2, 2048, 4, 4, 192, 128), {"kind": "padding"}),
    "v6e head dim 96, causal": ("v6e", (1, 1024, 4, 4, 96, 96), {}),
    "v6e head dim 128, float32, full": ("v6e", (1, 2048, 8, 2, 128, 128), {"dtype": jnp.float32, "kind": "full"}),
    "v6e head dim 8": ("v6e", (1, 256, 4, 2, 8, 8), {"kind": "segments"}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_generation_head_dimension_and_mask(name: str) -> None:
    generation, shape, options = CASES[name]
    check(compile_attention(one_chip(generation), shape, **options), name)


def test_the_longest_walk() -> None:
    """131072 tokens in two rows of their own: the list of blocks fits scalar memory, and nothing is quadratic."""
    compiled = compile_attention(one_chip("v4"), (2, 131072, 1, 1, 64, 64), kind="padding")
    check(compiled, "v4 131072 tokens, padding")
    scores = 2 * 131072**2 * 4 / 2**30
    found = record("temporary memory of 2 x 131072 tokens", memory(compiled))["temporary"]
    assert found < scores / 100


@pytest.mark.parametrize(
    ("name", "shape"), [("8B", (8, 8192, 32, 8, 128, 128)), ("one kv head", (8, 2048, 16, 1, 64, 64))]
)
def test_shapes_of_models_on_a_mesh(name: str, shape: tuple[int, ...]) -> None:
    """Batch over fsdp, heads over tensor; one kv head is on every device."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4").devices
    compiled = compile_attention(make_mesh(fsdp=4, tensor=4, devices=devices), shape)
    check(compiled, f"v5e:4x4, {name}, {shape[1]} tokens")
    assert "all-gather" not in compiled.as_text() or shape[3] == 1


@pytest.mark.parametrize(("names", "times"), [((), 2), (("context",), 1)])
def test_rematerialised_layers_run_the_forward_kernel_again_only_if_its_outputs_are_not_kept(
    names: tuple[str, ...], times: int
) -> None:
    mesh, slots = one_chip("v5e"), jnp.arange(1024)
    policy = jax.checkpoint_policies.save_only_these_names(*names)

    @jax.jit
    def run(x):
        def layer(x, _):
            return attention(x, x, x, Mask.causal(), q_slots=slots, k_slots=slots, scale=0.1), None

        return jax.value_and_grad(lambda x: jax.lax.scan(jax.checkpoint(layer, policy=policy), x, length=4)[0].sum())(x)

    place = NamedSharding(mesh, PartitionSpec())
    with use_mesh(mesh, jf.FSDP_TENSOR):
        text = run.lower(jax.ShapeDtypeStruct((1, 1024, 2, 128), jnp.float32, sharding=place)).compile().as_text()
    assert len(re.findall(r"%jaxformers_flash_forward[.\d]* = ", text)) == times
    assert len(re.findall(r"%jaxformers_flash_query_gradient[.\d]* = ", text)) == 1
