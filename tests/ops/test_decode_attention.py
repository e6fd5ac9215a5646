"""The attention op with kernels that read a cache: int8, pages, rows end to end; meshes, refusals, gradients."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.core.end_to_end import laid_end_to_end
from jaxformers.core.mask import Mask
from jaxformers.core.mesh import make_mesh
from jaxformers.core.paged_state import PagedCache
from jaxformers.core.pages import FreePages, allocate
from jaxformers.core.quant_state import QuantCache
from jaxformers.core.rows import paged, quantized
from jaxformers.core.sharding import FSDP_TENSOR, SEQUENCE, use_mesh
from jaxformers.core.state import KVCache
from jaxformers.core.stored import Ragged
from jaxformers.ops.attention import attention
from jaxformers.ops.decode_attention import decode_tpu, paged_tpu
from jaxformers.ops.dispatch import use, watch_calls

B, S, H, K, D = 4, 64, 8, 4, 16
KERNELS = ("paged_tpu", "decode_tpu")
FIRST = jnp.array([0, 3, 20, 10])


def arrays(t: int = 2, kv: int = K, dtype: str = "float32") -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(B, t, H, D), (B, S, kv, D), (B, S, kv, D)]
    return tuple(jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True))


def stored(kind: str, k: jax.Array, v: jax.Array) -> tuple[Any, Any]:
    """What a cache that was given these keys hands over."""
    empty = KVCache.zeros(*k.shape)
    kinds = {"dense": lambda x: x, "int8": QuantCache.empty_like, "paged": partial(PagedCache.full, size=16)}
    return kinds[kind](empty).write(k, v, jnp.arange(S))[1:3]


def places(t: int = 2, **changes) -> dict[str, Any]:
    return {"q_slots": jnp.arange(t) + 50, "k_slots": jnp.arange(S), "scale": 0.25, **changes}


def mask() -> Mask:
    return Mask(right=0, left=40, keys=jnp.arange(S)[None] >= FIRST[:, None])


@pytest.mark.parametrize("kind", ["dense", "int8", "paged"])
def test_each_device_computes_its_part(kind: str) -> None:
    """Rows over the batch's axes, heads over the tensor's; the kernel takes every form as it is."""
    q, k, v = arrays()
    keys, more = stored(kind, k, v), {"sinks": jnp.linspace(-1, 3, H)}
    with use(attention="reference"):
        want = attention(q, *keys, mask(), **places(), **more)
    with use(attention=KERNELS), watch_calls() as calls:
        alone = attention(q, *keys, mask(), **places(), **more)
        with use_mesh(make_mesh(fsdp=2, tensor=4), FSDP_TENSOR):
            spread = jax.jit(lambda q, k, v: attention(q, k, v, mask(), **places(), **more))(q, *keys)
    assert {c.chosen for c in calls} == {"paged_tpu" if kind == "paged" else "decode_tpu"}
    for got in (alone, spread):
        np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kv", [1, 2])
@pytest.mark.parametrize("kind", ["dense", "int8", "paged"])
def test_few_kv_heads_on_many_devices(kind: str, kv: int) -> None:
    q, k, v = arrays(kv=kv)
    keys = stored(kind, k, v)
    with use(attention="reference"):
        want = attention(q, *keys, mask(), **places())
    with use(attention=KERNELS), use_mesh(make_mesh(tensor=8), FSDP_TENSOR):
        got = jax.jit(lambda q, k, v: attention(q, k, v, mask(), **places()))(q, *keys)
    np.testing.assert_allclose(got, want, atol=2e-6)


def end_to_end(left: int | None = None) -> tuple[jax.Array, Ragged, Ragged, Mask]:
    keys = jax.random.split(jax.random.key(0), 3)
    pages = [jax.random.normal(key, (10, 8, K, D)) for key in keys[:2]]
    table = jnp.array([[3, 1, 4], [0, 9, -1]])
    k, v = (Ragged(x, table, jnp.array([0, 5, 6]), jnp.array([15, 9])) for x in pages)
    return jax.random.normal(keys[2], (1, 8, H, D)), k, v, Mask(right=0, left=left)


@pytest.mark.parametrize("left", [None, 6])
def test_rows_laid_end_to_end(left: int | None) -> None:
    given, more = end_to_end(left), {"sinks": jnp.linspace(-1, 3, H), **places(8)}
    with use(attention="reference"):
        want = attention(*given, **more)
    with use(attention="paged_tpu"):
        got = attention(*given, **more)
        with use_mesh(make_mesh(fsdp=2, tensor=4), FSDP_TENSOR):
            spread = jax.jit(lambda q, k, v: attention(q, k, v, given[3], **more))(*given[:3])
    for x in (got, spread):
        np.testing.assert_allclose(x, want, atol=2e-6)
    assert not np.asarray(want)[0, 6:].any()


def test_gradients_are_those_of_the_plain_form() -> None:
    """An encoder's output may be read by few queries in training."""
    q, k, v = arrays()

    def run(kind: str, keys) -> list[jax.Array]:
        with use(attention=kind):
            total = lambda q, k, v, sinks: jnp.sin(attention(q, k, v, mask(), **places(), sinks=sinks)).sum()  # noqa: E731
            wanted = (0, 1, 2, 3) if isinstance(keys[0], jax.Array) else (0, 3)
            return jax.tree.leaves(jax.jit(jax.grad(total, wanted))(q, *keys, jnp.linspace(-1, 3, H)))

    for kind in ("dense", "int8"):
        keys = stored(kind, k, v)
        for a, b in zip(run("decode_tpu", keys), run("reference", keys), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)


REFUSALS: dict[str, tuple] = {
    "dense mask": (arrays(), Mask(dense=jnp.ones((1, 1, 2, S), bool)), {}),
    "there is no cache to read": ((arrays()[1],) * 3, Mask(right=0), {"q_slots": jnp.arange(S)}),
    "takes bfloat16 or float32": (arrays(dtype="float16"), Mask(right=0), {}),
    "q, k and v are float32, bfloat16": ((arrays()[0], *arrays(dtype="bfloat16")[1:]), Mask(right=0), {}),
    "takes multiples of 8": (tuple(x[..., :12] for x in arrays()), Mask(right=0), {}),
    "150 queries": (
        (jnp.zeros((1, 150, 8, 8)), *(jnp.ones((1, 200, 2, 8)),) * 2),
        Mask(right=0),
        {"q_slots": jnp.arange(150), "k_slots": jnp.arange(200)},
    ),
    "takes products up to 4096": (
        (jnp.zeros((1, 100, 8, 8)), *(jnp.ones((1, 200, 8, 8)),) * 2),
        Mask(right=0),
        {"q_slots": jnp.arange(100), "k_slots": jnp.arange(200)},
    ),
    "3 kv heads in float32 would be moved": (tuple(x[:, :, :3] for x in arrays()), Mask(right=0), {}),
    "a bias for each of 20 queries": (
        arrays(20),
        Mask(right=0),
        {"bias": jnp.ones((1, H, 20, S)), "q_slots": jnp.arange(20) + 30},
    ),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_refusals_fall_through_to_what_is_right(reason: str) -> None:
    given, rules, changes = REFUSALS[reason]
    kwargs = places(**changes)
    with pytest.raises(NotImplementedError, match=reason):
        decode_tpu(*given, rules, **kwargs)
    with use(attention="reference"):
        want = attention(*given, rules, **kwargs)
    with use(attention=(*KERNELS, "reference")), watch_calls() as calls:
        got = attention(*given, rules, **kwargs)
    assert calls[0].chosen == "reference" and reason in calls[0].refused["decode_tpu"]
    assert calls[0].refused["paged_tpu"] == "keys do not lie in pages"
    np.testing.assert_array_equal(got, want)


def test_what_else_is_refused() -> None:
    q, k, v = arrays()
    with use_mesh(make_mesh(sequence=8), SEQUENCE), pytest.raises(NotImplementedError, match="along the sequence"):
        decode_tpu(q, k, v, mask(), **places())
    with pytest.raises(NotImplementedError, match="known when the program is traced"):
        jax.jit(lambda scale: decode_tpu(q, k, v, mask(), **places(scale=scale)))(0.3)
    with pytest.raises(NotImplementedError, match="paged_tpu reads"):
        decode_tpu(q, *stored("paged", k, v), mask(), **places())
    with pytest.raises(NotImplementedError, match="causal masks and windows only"):
        paged_tpu(*end_to_end()[:3], Mask(), **places(8))
    with pytest.raises(ValueError, match="causal masks and windows; got a bias"):
        with use(attention="reference"):
            attention(*end_to_end(), **places(8), bias=jnp.zeros((1, H, 1, S)))
    with pytest.raises(NotImplementedError, match="2 kv heads in int8"):
        decode_tpu(q, *stored("int8", k[:, :, :2], v[:, :, :2]), mask(), **places())
    many = jnp.zeros((B, 130, H, D))
    with pytest.raises(NotImplementedError, match="130 queries are many"):
        paged_tpu(many, *stored("paged", jnp.tile(k, (1, 3, 1, 1))[:, :S], v), mask(), **places(130))
    rows = jax.ShapeDtypeStruct((4096, 1, 1, D), jnp.float32), jax.ShapeDtypeStruct((4096, 4096, 1, D), jnp.float32)
    with pytest.raises(NotImplementedError, match="4096 keys in 4096 rows are 131072 blocks"):
        slots = {"q_slots": jnp.arange(1), "k_slots": jnp.arange(4096)}
        jax.eval_shape(lambda q, k: decode_tpu(q, k, k, Mask(right=0), **slots, scale=1.0), *rows)


SIZES = dict(
    vocab_size=99, hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=8,
    max_position_embeddings=256,
)  # fmt: skip
FAMILIES = {
    "llama": {"num_key_value_heads": 4},
    "gemma2": {"num_key_value_heads": 4, "head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "bloom": {"n_layer": 2, "n_head": 4},  # ALiBi
    "gpt_oss": {"num_key_value_heads": 4, "head_dim": 8, "sliding_window": 8, "num_local_experts": 4},  # sinks
    "deepseek_v3": {"num_key_value_heads": 8, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
                    "num_experts_per_tok": 2, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8,
                    "qk_nope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 1, "moe_intermediate_size": 16},
}  # fmt: skip


def tiny(name: str, scan: bool = False) -> jf.Model:
    config = jf.AutoConfig.for_model(name, **{**SIZES, **FAMILIES[name]})
    model = jf.Model.init(config, jax.random.key(0), task="CausalLM", scan=scan)
    return jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(1), x.shape, x.dtype), model)


def decoded(model: jf.Model, change, kind: str | tuple) -> tuple[jax.Array, set[str]]:
    """Logits of a padded prompt and of three tokens one by one, and the implementations that ran."""
    ids = jax.random.randint(jax.random.key(2), (2, 14), 0, 99)
    real = jnp.arange(11)[None] >= jnp.array([[0], [4]])
    with use(attention=kind), watch_calls() as calls:
        step = jax.jit(lambda params, given: model.module.apply({"params": params}, **given))
        out = step(model.params, {"input_ids": ids[:, :11], "attention_mask": real, "past_key_values": change(
            model.init_cache(2, 40))})  # fmt: skip
        logits = [jnp.where(real[..., None], out.logits, 0.0)]
        for n in range(11, 14):
            out = step(model.params, {"input_ids": ids[:, n : n + 1], "past_key_values": out.past_key_values})
            logits.append(out.logits)
    return jnp.concatenate(logits, 1), {c.chosen for c in calls if c.op == "attention"}


QUICK = [("llama", "int8")]
ALL = [(name, kind) for name in FAMILIES for kind in ("dense", "int8", "paged")]


@pytest.mark.parametrize(
    ("name", "kind"), [pytest.param(*x, marks=() if x in QUICK else pytest.mark.slow) for x in ALL]
)
def test_models_decode_the_same_with_the_kernels(name: str, kind: str) -> None:
    """Windows, ALiBi, sinks, latents; dense caches, rings, int8 and pages. Every call is taken by a kernel."""
    change = {"dense": lambda cache: cache, "int8": quantized, "paged": partial(paged, size=16)}[kind]
    model = tiny(name)
    want, _ = decoded(model, change, "reference")
    got, ran = decoded(model, change, KERNELS)
    assert ran <= set(KERNELS) and ("paged_tpu" in ran or kind != "paged" or name == "deepseek_v3")
    np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize(
    ("kind", "scan"), [("reference", True), pytest.param("paged_tpu", False, marks=pytest.mark.slow)]
)
def test_a_model_serves_rows_that_come_and_go(kind: str, scan: bool) -> None:
    """Prompts beside single tokens in one program: each row gets the logits that it has alone."""
    model, size, total = tiny("llama", scan), 4, 10
    texts = jax.random.randint(jax.random.key(2), (3, 9), 0, 99)
    cache = paged(model.init_cache(3, 12), size)
    free, table = FreePages.of(9), jnp.full((3, 3), -1)

    @jax.jit
    def step(params, ids, positions, cache, table, starts, lengths):
        cache = laid_end_to_end(cache, total, table, starts, lengths)
        out = model.module.apply({"params": params}, input_ids=ids, position_ids=positions, past_key_values=cache)
        return out.logits[0], out.past_key_values

    have, logits = np.zeros(3, int), [[], [], []]
    with use(attention=kind):
        for new in ([5, 3, 0], [1, 0, 4], [1, 2, 1], [2, 0, 1]):
            starts = np.concatenate([[0], np.cumsum(new)])
            tokens, places = np.zeros(total, int), np.zeros(total, int)
            for r in range(3):
                places[starts[r] : starts[r + 1]] = at = have[r] + np.arange(new[r])
                tokens[starts[r] : starts[r + 1]] = texts[r, at]
            free, table, enough = allocate(free, table, jnp.asarray(have + new), size)
            assert enough
            given = (jnp.asarray(x)[None] for x in (tokens, places))
            out, cache = step(model.params, *given, cache, table, jnp.asarray(starts), jnp.asarray(have))
            for r in range(3):
                logits[r].append(out[starts[r] : starts[r + 1]])
            have = have + new
    for r in range(3):
        want = model(input_ids=texts[r : r + 1, : have[r]]).logits[0]
        np.testing.assert_allclose(jnp.concatenate(logits[r]), want, atol=1e-5)
