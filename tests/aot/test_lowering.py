"""A forward lowers for GPUs and TPUs with the CPU build of jax alone: no plugin, no toolkit, no device."""

import jax
import jax.numpy as jnp
import pytest

import jaxformers as jf
from jaxformers.hub.abstract import abstract_params
from jaxformers.hub.layout import relayout
from jaxformers.models import blueprint

SIZES = dict(
    vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64,
)  # fmt: skip


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("scan", [False, True], ids=["per layer", "scanned"])
def test_a_forward_lowers(platform: str, scan: bool) -> None:
    config = jf.AutoConfig.for_model("llama", **SIZES)
    module = relayout(blueprint(config, "CausalLM").module, scan=scan)
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), abstract_params(module))
    model = jf.Model(params, module, config, "CausalLM")
    ids = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    traced = jax.jit(lambda m, ids, mask: m(input_ids=ids, attention_mask=mask).logits).trace(model, ids, ids)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.dot_general" in text and "bf16" in text and ("stablehlo.while" in text) is scan
