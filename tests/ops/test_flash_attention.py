"""The attention op with the TPU's kernel: on meshes, under vmap, and what happens where the kernel refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies

import jaxformers as jf
import jaxformers.ops.attention as module
from jaxformers.core.mask import Mask
from jaxformers.core.mesh import make_mesh
from jaxformers.core.sharding import FSDP_TENSOR, SEQUENCE, use_mesh
from jaxformers.ops.attention import attention
from jaxformers.ops.dispatch import target_platform, use, watch_calls
from jaxformers.ops.flash_attention import flash_tpu

B, T, H, K, D = 4, 256, 8, 4, 64
SLOTS = jnp.arange(T)
WHERE = {"q_slots": SLOTS, "k_slots": SLOTS, "scale": 0.125}
FIRST = jnp.array([0, 3, 200, 10])
MASK = Mask(
    right=0,
    left=120,
    keys=SLOTS[None] >= FIRST[:, None],
    prefix=jnp.array([5, 210, 230, 20]),
    q_segments=SLOTS[None] // 100,
    k_segments=SLOTS[None] // 100,
)


def arrays(dtype: str = "float32", kv: int = K) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0), 3)
    return tuple(jax.random.normal(key, (B, T, h, D), dtype) for key, h in zip(keys, (H, kv, kv), strict=True))


def extras() -> dict[str, jax.Array]:
    return {"sinks": jnp.linspace(-1, 3, H), "bias": jax.random.normal(jax.random.key(3), (1, H, 1, T))}


def outputs(mesh, rules, given: tuple, more: dict) -> list[jax.Array]:
    """Rows that see something, and the gradients of their sum."""
    seen = MASK.array(SLOTS, SLOTS).any(-1)[:, 0, :, None, None]

    @jax.jit
    def run(q, k, v, more):
        def total(q, k, v, more):
            out = jnp.where(seen, attention(q, k, v, MASK, **WHERE, **more), 0.0)
            return jnp.sin(out).sum(), out

        grads, out = jax.grad(total, (0, 1, 2, 3), has_aux=True)(q, k, v, more)
        return out, grads

    with use_mesh(mesh, rules):
        return jax.tree.leaves(run(*given, more))


@pytest.mark.parametrize(
    ("axes", "rules", "kv"),
    [
        ({"data": 2, "fsdp": 2, "tensor": 2}, FSDP_TENSOR, K),
        # Each kv head on four devices.
        pytest.param({"tensor": 8}, FSDP_TENSOR, 2, marks=pytest.mark.slow),
        # Queries cut along the sequence, keys whole.
        pytest.param({"fsdp": 4, "sequence": 2}, (*SEQUENCE, ("keys", None)), K, marks=pytest.mark.slow),
    ],
)
def test_each_device_computes_its_part(axes: dict, rules: tuple, kv: int) -> None:
    given, more = arrays(kv=kv), extras()
    with use(attention="reference"):
        want = outputs(None, (), given, more)
    with use(attention="flash_tpu"):
        got = outputs(make_mesh(axes), rules, given, more)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=3e-5)


def test_vmap() -> None:
    q, k, v = (jnp.stack([x, -x]) for x in arrays())
    keys = SLOTS[None, None] >= jnp.stack([FIRST, FIRST + 7])[..., None]

    def one(q, k, v, keys):
        return jnp.where(keys[..., None, None], attention(q, k, v, Mask.causal(keys), **WHERE), 0.0)

    def run(kind: str) -> list[jax.Array]:
        with use(attention=kind):
            many = jax.vmap(one)
            total = lambda q: jnp.sin(many(q, k, v, keys)).sum()  # noqa: E731
            return [jax.jit(many)(q, k, v, keys), jax.jit(jax.grad(total))(q)]

    for a, b in zip(run("flash_tpu"), run("reference"), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-6)


def sees(mask: Mask, **changes) -> dict:
    return {"mask": mask, **WHERE, **changes}


REFUSALS = {
    "dense mask": (arrays(), sees(Mask(dense=jnp.ones((1, 1, T, T), bool)))),
    "queries are too few": (
        tuple(x[:, -5:] if i == 0 else x for i, x in enumerate(arrays())),
        sees(Mask(), q_slots=SLOTS[-5:]),
    ),
    "takes bfloat16 or float32": (arrays("float16"), sees(Mask())),
    "q, k and v are float32, bfloat16": ((arrays()[0], *arrays("bfloat16")[1:]), sees(Mask())),
    "multiples of 8 up to 256": (tuple(x[..., :60] for x in arrays()), sees(Mask())),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_refusals_fall_through_to_what_is_right(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given, kwargs = REFUSALS[reason]
    with pytest.raises(NotImplementedError, match=reason):
        flash_tpu(*given, **kwargs)
    with use(attention="reference"):
        want = attention(*given, **kwargs)
    with use(attention=("flash_tpu", "reference")), watch_calls() as calls:
        got = attention(*given, **kwargs)
    assert calls[0].chosen == "reference" and reason in calls[0].refused["flash_tpu"]
    np.testing.assert_array_equal(got, want)


def test_keys_cut_along_the_sequence_are_refused() -> None:
    with use_mesh(make_mesh(sequence=8), SEQUENCE), pytest.raises(NotImplementedError, match="takes a ring"):
        flash_tpu(*arrays(), Mask.causal(), **WHERE)


def test_heads_that_do_not_divide_are_refused() -> None:
    q, k, v = arrays(kv=1)
    k, v = (jnp.concatenate([x, x, x], 2) for x in (k, v))  # 3 kv heads on 8 devices: 24 for 8 queries' heads
    with use_mesh(make_mesh(tensor=8), FSDP_TENSOR), pytest.raises(NotImplementedError, match="do not divide"):
        flash_tpu(q, k, v, Mask.causal(), **WHERE)


def test_arrays_on_several_devices_need_a_mesh_in_use() -> None:
    place = jax.sharding.NamedSharding(make_mesh(data=4, tensor=2), jax.sharding.PartitionSpec("data"))
    q, k, v = (jax.device_put(x, place) for x in arrays())
    with pytest.raises(NotImplementedError, match="call inside use_mesh"):
        jax.jit(lambda q, k, v: flash_tpu(q, k, v, Mask.causal(), **WHERE))(q, k, v)


def test_walks_that_scalar_memory_cannot_hold_are_refused() -> None:
    length = 2**18
    q = jax.ShapeDtypeStruct((2, length, 1, 64), jnp.bfloat16)
    keys = jax.ShapeDtypeStruct((2, length), bool)
    slots = jax.ShapeDtypeStruct((length,), jnp.int32)

    def run(q, keys, slots):
        return flash_tpu(q, q, q, Mask.causal(keys), q_slots=slots, k_slots=slots, scale=1.0)

    with pytest.raises(NotImplementedError, match="in 2 rows are 131072 blocks; takes 65536"):
        jax.eval_shape(run, q, keys, slots)


def test_traced_numbers_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="known when the program is traced"):
        jax.jit(lambda scale: flash_tpu(*arrays(), Mask(), q_slots=SLOTS, k_slots=SLOTS, scale=scale))(0.125)


def test_the_mesh_in_use_decides_on_the_platform() -> None:
    """A program for a pod is traced on a laptop: its mesh says which implementations may run."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    shapes = [jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) for x in arrays()]

    def trace() -> None:
        jax.eval_shape(lambda q, k, v: attention(q, k, v, Mask.causal(), **WHERE), *shapes)

    with watch_calls() as calls:
        trace()
        with use_mesh(make_mesh(fsdp=4, devices=devices), FSDP_TENSOR):
            assert target_platform() == "tpu"
            trace()
    assert [call.chosen for call in calls] == ["reference", "flash_tpu"]
    assert calls[0].refused["flash_tpu"] == "for tpu, not cpu"


FAMILIES = {
    "llama": {"num_key_value_heads": 2},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 40, "query_pre_attn_scalar": 8},
    "bloom": {"n_layer": 2, "n_head": 4},  # ALiBi
    "bert": {},
    "gpt_oss": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 40, "num_local_experts": 4},  # sinks
}


QUICK = ("gpt_oss",)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_models_compute_the_same_with_the_kernel(name: str) -> None:
    """A padded batch through every layer of a model; the kernel takes each call."""
    sizes = dict(vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    config = jf.AutoConfig.for_model(name, **{**sizes, "max_position_embeddings": 256, **FAMILIES[name]})
    task = "MaskedLM" if name == "bert" else "CausalLM"
    model = jf.Model.init(config, jax.random.key(0), task=task)
    model = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(1), x.shape, x.dtype), model)
    ids = jax.random.randint(jax.random.key(2), (2, 150), 0, 99)
    real = jnp.arange(150)[None] >= jnp.array([[0], [20]])

    def logits(kind: str) -> jax.Array:
        forward = lambda params: model.module.apply({"params": params}, input_ids=ids, attention_mask=real).logits  # noqa: E731
        with use(attention=kind):
            return jax.jit(forward)(model.params)

    want = logits("reference")
    with watch_calls() as calls:
        got = logits("flash_tpu")
    assert [c.chosen for c in calls if c.op == "attention"] == ["flash_tpu"] * 2
    np.testing.assert_allclose(np.asarray(got)[real], np.asarray(want)[real], atol=1e-5)


def test_the_registered_order() -> None:
    names = list(module.attention.known())
    assert names.index("ring") < names.index("flash_tpu") < names.index("reference")
