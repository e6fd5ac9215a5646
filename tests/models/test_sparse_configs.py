"""Sparse and recurrent decoders: what their configs refuse, and how large their caches are."""

import jax
import pytest

from jaxformers.core.errors import ConfigError
from jaxformers.core.state import KVCache, RingCache, SsmState
from jaxformers.models import build, read_config

DEEPSEEK = dict(
    model_type="deepseek_v3", vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, n_routed_experts=8, n_group=2, topk_group=1, num_experts_per_tok=2, kv_lora_rank=12,
    q_lora_rank=None, qk_rope_head_dim=8, qk_nope_head_dim=4, v_head_dim=6, first_k_dense_replace=1,
    intermediate_size=16, moe_intermediate_size=8,
)  # fmt: skip
REFUSED = {
    "experts quantised to MXFP4": (
        dict(model_type="gpt_oss", quantization_config={"quant_method": "mxfp4"}), "quantised to MXFP4"),
    "another quantisation": (
        dict(model_type="mixtral", quantization_config={"quant_method": "awq"}), "quantization_config"),
    "a window that is not given": (dict(model_type="gpt_oss", sliding_window=None), "sliding_window"),
    "more experts chosen than there are": (
        dict(model_type="mixtral", num_local_experts=2, num_experts_per_tok=3), "num_experts_per_tok"),
    "fewer keys than queries": ({**DEEPSEEK, "num_key_value_heads": 2}, "num_key_value_heads"),
    "groups that do not divide": ({**DEEPSEEK, "n_group": 3}, "n_group"),
    "groups of one": ({**DEEPSEEK, "n_group": 8}, "n_group"),
    "more chosen than the groups hold": ({**DEEPSEEK, "num_experts_per_tok": 5}, "num_experts_per_tok"),
    "an offset beyond its period": (dict(model_type="jamba", attn_layer_offset=8), "attn_layer_offset"),
    "heads that do not fill the width": (dict(model_type="mamba2", num_heads=3), "num_heads"),
    "an unknown way to begin": (dict(model_type="mamba", time_step_init_scheme="even"), "time_step_init_scheme"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    """Each with a sentence that names the field."""
    raw, word = REFUSED[name]
    with pytest.raises(ConfigError, match=word):
        read_config(raw)


def states(raw: dict) -> list:
    """The shapes of a cache's states: two texts, 40 tokens."""
    module = build(read_config(raw))
    cache = jax.eval_shape(lambda: module.init_cache(2, 40))
    return [s for layer in cache.layers for s in layer if s is not None]


def test_latents_are_cached() -> None:
    """DeepSeek keeps one latent and one rotated key for each token, whatever the number of heads."""
    for state in states(DEEPSEEK):
        assert isinstance(state, KVCache) and state.k.shape == (2, 40, 1, 12) and state.v.shape == (2, 40, 1, 8)


def test_recurrent_states_do_not_grow() -> None:
    """Jamba keeps keys and values in its attention layers alone."""
    raw = dict(model_type="jamba", hidden_size=16, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=5)
    kinds = states({**raw, "mamba_d_state": 3})
    assert [type(s) for s in kinds] == [SsmState] * 4 + [KVCache]
    assert kinds[0].conv.shape == (2, 3, 32) and kinds[0].hidden.shape == (2, 32, 3)


def test_windows_are_rings() -> None:
    """Every other layer of gpt-oss keeps its window only."""
    raw = dict(model_type="gpt_oss", hidden_size=16, num_hidden_layers=2, sliding_window=7, head_dim=4)
    ring, full = states(raw)
    assert isinstance(ring, RingCache) and ring.k.shape[1] == 7
    assert isinstance(full, KVCache) and full.k.shape[1] == 40
