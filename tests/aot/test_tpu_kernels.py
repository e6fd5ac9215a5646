"""Every TPU kernel compiles for every generation of TPUs, though none is there; its use of fast memory is recorded."""

import math
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
from jaxformers.ops.dispatch import use
from tests.aot.llama_8b import memory, record

pytestmark = pytest.mark.slow

CHIPS = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
NAMES = {"jaxformers_flash_forward", "jaxformers_flash_query_gradient", "jaxformers_flash_key_gradients"}
MASKS = ("full", "causal", "window", "around", "prefix", "padding", "segments")
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
        return program.lower(*inputs, extras, like((b, t), jnp.int32)).compile()


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


@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("generation", CHIPS)
def test_every_generation(generation: str, dim: int) -> None:
    check(compile_attention(one_chip(generation), (1, 2048, 8, 2, dim, dim)), f"{generation} head dim {dim}")


@pytest.mark.parametrize("kind", MASKS)
def test_every_mask(kind: str) -> None:
    check(compile_attention(one_chip("v5e"), (2, 2048, 4, 2, 128, 128), kind=kind), f"v5e {kind}")


CASES = {
    "head dim 72": ((1, 1024, 4, 4, 72, 72), {}),
    "head dim 80": ((1, 1024, 4, 4, 80, 80), {}),
    "head dim 96": ((1, 1024, 4, 4, 96, 96), {}),
    "head dims 192 and 128": ((1, 2048, 4, 4, 192, 128), {}),
    "head dim 8": ((1, 256, 4, 2, 8, 8), {}),
    "float32": ((1, 2048, 4, 2, 128, 128), {"dtype": jnp.float32}),
    "float32, head dim 256": ((1, 2048, 4, 2, 256, 256), {"dtype": jnp.float32}),
    "a length that does not divide": ((1, 1500, 4, 2, 128, 128), {}),
    "soft cap, ALiBi, sinks": ((2, 2048, 4, 2, 128, 128), {"softcap": 50.0, "bias": (1, 4, 1, 2048), "sinks": (4,)}),
    "a whole bias": ((2, 2048, 4, 4, 64, 64), {"bias": (1, 4, 2048, 2048), "kind": "full"}),
    "131072 tokens, the longest walk": ((2, 131072, 1, 1, 64, 64), {"kind": "padding"}),
}


@pytest.mark.parametrize("name", CASES)
def test_other_shapes(name: str) -> None:
    """On the generation with the least fast memory."""
    shape, options = CASES[name]
    check(compile_attention(one_chip("v4"), shape, **options), f"v4 {name}")


@pytest.mark.parametrize(
    ("name", "heads", "kv", "dim"),
    [("1B", 32, 8, 64), ("8B", 32, 8, 128), ("70B", 64, 8, 128), ("one kv head", 16, 1, 256)],
)
@pytest.mark.parametrize("length", [2048, 8192])
def test_shapes_of_models_on_a_mesh(name: str, heads: int, kv: int, dim: int, length: int) -> None:
    """Batch over fsdp, heads over tensor; one kv head is on every device."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4").devices
    compiled = compile_attention(make_mesh(fsdp=4, tensor=4, devices=devices), (8, length, heads, kv, dim, dim))
    check(compiled, f"v5e:4x4, {name}, {length} tokens")
    assert "all-gather" not in compiled.as_text() or kv == 1


def test_memory_grows_with_the_length_and_not_with_its_square() -> None:
    def temporary(length: int, kind: str) -> float:
        with use(attention=kind):
            return memory(compile_attention(one_chip("v5p"), (1, length, 16, 4, 128, 128)))["temporary"]

    kernel = {length: temporary(length, "flash_tpu") for length in (2048, 4096)}
    plain = {length: temporary(length, "reference") for length in (2048, 4096)}
    record("temporary memory of attention by length, kernel", {str(k): v for k, v in kernel.items()})
    record("temporary memory of attention by length, plain", {str(k): v for k, v in plain.items()})
    scores = 16 * 4096**2 * 4 / 2**30
    assert plain[4096] > scores and kernel[4096] < scores / 8
    assert kernel[4096] / max(kernel[2048], 1e-9) < 3 or math.isclose(kernel[4096], 0, abs_tol=1e-3)


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
