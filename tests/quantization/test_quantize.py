"""Quantised models: what is rounded, what is computed, both layouts, meshes, tables, generation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.core.qtensor import QTensor, is_quantized
from jaxformers.hub.abstract import flatten
from jaxformers.hub.abstract_model import abstract_model
from jaxformers.ops import moe
from jaxformers.ops.dispatch import use, watch_calls
from jaxformers.quantization.quantize import dequantize

LLAMA = dict(
    vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, eos_token_id=None, bos_token_id=None,
)  # fmt: skip
MIXTRAL = {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}
IDS = np.arange(1, 17).reshape(2, 8)


def model_of(kind: str, fields: dict, **options) -> jf.Model:
    config = jf.AutoConfig.for_model(kind, **fields)
    return jf.AutoModelForCausalLM.from_config(config, jax.random.key(0), **options)


@pytest.fixture(scope="module")
def llama() -> jf.Model:
    return model_of("llama", LLAMA)


def quantized_paths(model: jf.Model) -> set[str]:
    return {"/".join(path) for path, leaf in flatten(model.params).items() if is_quantized(leaf)}


def logits(model: jf.Model) -> np.ndarray:
    return np.asarray(model(jnp.asarray(IDS)).logits, np.float32)


def test_layers_are_quantised_and_nothing_else(llama: jf.Model) -> None:
    q = jf.quantize(llama, "int8")
    names = (
        "attn/q_proj",
        "attn/k_proj",
        "attn/v_proj",
        "attn/o_proj",
        "mlp/gate_proj",
        "mlp/up_proj",
        "mlp/down_proj",
    )
    assert quantized_paths(q) == {f"backbone/layers/{n}/{name}/weight" for n in (0, 1) for name in names}
    assert quantized_paths(llama) == set()
    assert repr(q) == repr(llama)  # as many parameters
    skipped = jf.quantize(llama, "int8", skip="down_proj|layers/0/attn", heads=True)
    assert quantized_paths(skipped) ^ quantized_paths(q) == {
        "head/weight", *(f"backbone/layers/{n}/mlp/down_proj/weight" for n in (0, 1)),
        *(f"backbone/layers/0/attn/{name}_proj/weight" for name in "qkvo"),
    }  # fmt: skip


@pytest.mark.parametrize(("kind", "group"), [("int8", "auto"), ("int4", 32), ("fp8", "auto")])
def test_it_computes_what_its_matrices_stand_for(llama: jf.Model, kind: str, group) -> None:
    q = jf.quantize(llama, kind, group_size=group)
    truth = logits(dequantize(q))
    np.testing.assert_allclose(logits(q), truth, atol=2e-6)
    assert 1e-5 < abs(logits(llama) - truth).max() < 0.2
    stacked = jf.restack(q, scan=True)
    assert isinstance(flatten(stacked.params)["backbone", "layers", "0:2:1", "0", "mlp", "up_proj", "weight"], QTensor)
    np.testing.assert_allclose(logits(stacked), truth, atol=2e-6)
    rounded = jf.quantize(jf.restack(llama, scan=True), kind, group_size=group)
    for one, two in ((rounded, stacked), (jf.restack(stacked, False), q)):
        assert jax.tree.structure(one.params) == jax.tree.structure(two.params)
        jax.tree.map(np.testing.assert_array_equal, one.params, two.params)


def test_casting_keeps_scales_and_values(llama: jf.Model) -> None:
    q = jf.quantize(llama, "fp8").cast(jnp.bfloat16)
    leaf = flatten(q.params)["backbone", "layers", "0", "mlp", "up_proj", "weight"]
    assert (leaf.dtype, leaf.scale.dtype, leaf.values.dtype) == (jnp.bfloat16, jnp.float32, jnp.float8_e4m3fn)
    kinds = {x.dtype for x in jax.tree.leaves(q.init_cache(1, 8)) if jnp.issubdtype(x.dtype, jnp.floating)}
    assert kinds == {jnp.dtype(jnp.bfloat16)}
    computed = jf.quantize(llama, "fp8").replace(compute_dtype=jnp.dtype(jnp.bfloat16))
    assert computed(jnp.asarray(IDS)).logits.dtype == jnp.bfloat16


def test_experts_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moe, "FEW_NUMBERS", 0)
    model = model_of("mixtral", MIXTRAL)
    q = jf.quantize(model, "int4", group_size=32)
    paths = quantized_paths(q)
    assert "backbone/layers/0/mlp/experts/gate_proj/kernel" in paths
    assert not any("router" in path for path in paths)
    truth = logits(dequantize(q))
    for name in ("reference", "grouped"):
        jax.clear_caches()
        with use(moe=name):
            np.testing.assert_allclose(logits(q), truth, atol=2e-6)
    jax.clear_caches()
    with use(moe=("ragged", "grouped")), watch_calls() as calls:
        logits(q)
    assert {call.chosen for call in calls if call.op == "moe"} == {"grouped"}
    assert "as they are stored" in next(call for call in calls if call.op == "moe").refused["ragged"]


def test_a_table_of_errors(llama: jf.Model) -> None:
    q = jf.quantize(llama, "int4", group_size=32)
    found = jf.quantization_errors(llama, q)
    row = found["backbone/layers/1/mlp/down_proj/weight"]
    old = np.asarray(flatten(llama.params)["backbone", "layers", "1", "mlp", "down_proj", "weight"], np.float64)
    new = np.asarray(
        flatten(q.params)["backbone", "layers", "1", "mlp", "down_proj", "weight"].dequantize(), np.float64
    )
    assert row.error == pytest.approx(np.linalg.norm(old - new) / np.linalg.norm(old), rel=1e-4)
    assert (row.shape, row.kind, row.group_size, row.bits) == ((64, 128), "int4", 32, 5.0)
    assert (row.before, row.after) == (64 * 128 * 4, 64 * 128 // 2 + 64 * 4 * 4)
    assert found.bytes_before - found.bytes_after == sum(row.before - row.after for row in found)
    assert len(found) == 14 and found.worst.error == max(row.error for row in found)
    stacked = jf.quantization_errors(jf.restack(llama, True), jf.restack(q, True))
    assert {row.path: pytest.approx(row.error, rel=1e-5) for row in found} == {r.path: r.error for r in stacked}
    shown = str(found)
    assert "layers/*/mlp/down_proj/weight" in shown and "int4/32" in shown and "5.00" in shown
    with pytest.raises(ValueError, match="not quantised"):
        jf.quantization_errors(llama, llama)
    with pytest.raises(ValueError, match="no such matrix"):
        jf.quantization_errors(q, q)


def test_what_cannot_be_done_is_said(llama: jf.Model) -> None:
    with pytest.raises(ValueError, match=r"k_proj/weight: 64 inputs.*group_size=64"):
        jf.quantize(llama, "int4")
    with pytest.raises(ValueError, match="expected one of int8, int4, fp8"):
        jf.quantize(llama, "int3")
    with pytest.raises(ValueError, match="skips nothing"):
        jf.quantize(llama, "int8", skip=["up_proj", "w_in"])
    with pytest.raises(ValueError, match="quantised already"):
        jf.quantize(jf.quantize(llama, "int8"), "int8")
    with pytest.raises(ValueError, match="only some are to be skipped"):
        jf.quantize(jf.restack(llama, scan=True), "int8", skip="layers/0")
    with pytest.raises(ValueError, match="quantised in different ways"):
        jf.restack(jf.quantize(llama, "int8", skip="layers/0"), scan=True)


@pytest.mark.parametrize("rules", ["FSDP_TENSOR", "EXPERT"])
def test_on_a_mesh(rules: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and scales lie by the names of the matrix's axes; the kernel runs on each device's own part."""
    monkeypatch.setattr(moe, "FEW_NUMBERS", 0)  # each expert's rows apart
    kind, group = ("mixtral", 32) if rules == "EXPERT" else ("llama", None)
    model = model_of(kind, MIXTRAL if rules == "EXPERT" else LLAMA)
    truth = logits(dequantize(jf.quantize(model, "int8", group_size=group)))
    sizes = {"fsdp": 2, "tensor": 2, **({"expert": 2} if rules == "EXPERT" else {})}
    mesh = jf.make_mesh(**sizes, devices=jax.devices()[: 4 if rules == "FSDP_TENSOR" else 8])
    spread = jf.AutoModelForCausalLM.from_config(model.config, jax.random.key(0), mesh=mesh, rules=getattr(jf, rules))
    q = jf.quantize(spread, "int8", group_size=group)
    table = jf.shardings(q)
    one = table["backbone/layers/0/attn/o_proj/weight/values"]
    assert (one.dtype, one.shape, one.names) == (jnp.int8, (64, 64), ("embed", "heads"))
    assert one.bytes_per_device == 64 * 64 // mesh.size
    scale = table["backbone/layers/0/attn/o_proj/weight/scale"]
    assert scale.names == ((None, "embed") if group is None else ("heads", "embed"))
    assert table.bytes == sum(x.nbytes for x in jax.tree.leaves(q))
    assert q.params["backbone"]["layers"]["0"]["attn"]["o_proj"]["weight"].values.sharding.spec == one.spec
    with use(quantized_dot="pallas_tpu"), watch_calls() as calls:
        np.testing.assert_allclose(logits(q), truth, atol=1e-5)
    assert {call.chosen for call in calls if call.op == "quantized_dot"} == {"pallas_tpu"}
    shapes = abstract_model(model.config, task="CausalLM", mesh=mesh, rules=getattr(jf, rules))
    planned = jf.quantize(shapes, "int8", group_size=group)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), planned.params) == jax.tree.map(
        lambda x: (x.shape, x.dtype, x.sharding), q.params
    )


def test_it_writes_the_text_that_its_matrices_write(llama: jf.Model) -> None:
    q = jf.quantize(llama, "int8")
    options = dict(max_new_tokens=5, do_sample=False)
    written = q.generate(jnp.asarray(IDS), **options)
    np.testing.assert_array_equal(written, dequantize(q).generate(jnp.asarray(IDS), **options))
