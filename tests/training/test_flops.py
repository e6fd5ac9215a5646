"""FLOPs counted in a program equal the formulas that papers give for the architecture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.training.flops import count_flops, model_flops, peak_flops, train_flops

KEY = jax.random.key(0)
IDS = jax.ShapeDtypeStruct((2, 16), jnp.int32)


def make(model_type: str, task: str | None, scan: bool = False, **fields) -> jf.Model:
    """An abstract model: shapes without values."""
    config = jf.AutoConfig.for_model(model_type, **fields)
    return jax.eval_shape(lambda key: jf.Model.init(config, key, task=task, scan=scan), KEY)


def test_products_convolutions_and_loops() -> None:
    a, b = jnp.zeros((3, 4)), jnp.zeros((4, 5))
    assert count_flops(jnp.dot, a, b) == 2 * 3 * 4 * 5
    image, kernel = jnp.zeros((1, 6, 8, 8)), jnp.zeros((4, 3, 3, 3))

    def convolve(x: jax.Array, k: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, k, (1, 1), "VALID", feature_group_count=2)

    assert count_flops(convolve, image, kernel) == 2 * (4 * 6 * 6) * (3 * 3 * 3)

    def loop(x: jax.Array) -> jax.Array:
        step = jax.checkpoint(lambda c, _: (jnp.tanh(c @ c), None))
        return jax.lax.scan(step, x, None, length=7)[0]

    assert count_flops(loop, jnp.zeros((4, 4))) == 7 * 2 * 4**3
    either = lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: y @ y, lambda y: y, x)  # noqa: E731
    assert count_flops(either, jnp.zeros((4, 4))) == 2 * 4**3


@pytest.mark.parametrize("scan", [False, True])
def test_llama_is_two_a_weight_and_attention(scan: bool) -> None:
    width, layers, heads, kv, inner, vocab = 32, 3, 4, 2, 48, 96
    model = make(
        "llama", "CausalLM", scan, vocab_size=vocab, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv, intermediate_size=inner,
    )  # fmt: skip
    weights = layers * (2 * width**2 + 2 * width * width * kv // heads + 3 * width * inner) + width * vocab
    tokens, length = 32, 16
    rotary = count_flops(lambda p: jnp.outer(p, jnp.zeros(4)), jnp.zeros(16))  # angles may be products as well
    expected = tokens * (2 * weights + layers * 4 * length * width)
    assert abs(model_flops(model, {"input_ids": IDS}) - expected) <= 4 * rotary * layers
    assert train_flops(expected) == 3 * expected


def test_experts_count_where_tokens_are_sent() -> None:
    sizes = dict(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, intermediate_size=48)  # fmt: skip
    few = make("mixtral", "CausalLM", num_local_experts=4, num_experts_per_tok=1, **sizes)
    more = make("mixtral", "CausalLM", num_local_experts=4, num_experts_per_tok=2, **sizes)
    many = make("mixtral", "CausalLM", num_local_experts=8, num_experts_per_tok=2, **sizes)
    one, two, eight = (model_flops(model, {"input_ids": IDS}) for model in (few, more, many))
    assert two - one == 2 * 32 * 2 * (3 * 32 * 48)  # layers, tokens, two each, an expert's weights
    assert eight - two == 2 * 32 * 2 * 32 * 4  # only the router is larger


def test_vision_counts_patches() -> None:
    model = make("vit", None, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
                 image_size=16, patch_size=8, add_pooling_layer=False)  # fmt: skip
    counted = model_flops(model, {"pixel_values": jax.ShapeDtypeStruct((2, 3, 16, 16), jnp.float32)})
    tokens = 2 * 5
    layer = tokens * (2 * (4 * 32**2 + 2 * 32 * 64) + 4 * 5 * 32)
    patches = 2 * (2 * 4) * 32 * 3 * 64
    pooler = 2 * 2 * 32 * 32
    assert counted in (layer + patches, layer + patches + pooler)


def test_counting_leaves_no_trace_in_the_programs_of_a_run() -> None:
    sizes = dict(vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    model = jf.Model.init(jf.AutoConfig.for_model("llama", **sizes), KEY, task="CausalLM")
    ids = np.arange(8)[None]
    before = model_flops(model, {"input_ids": ids})
    logits = model(input_ids=ids).logits
    assert model_flops(model, {"input_ids": ids}) == before
    assert np.array_equal(logits, model(input_ids=ids).logits)


class Device:
    """A device of some kind."""

    def __init__(self, kind: str) -> None:
        self.device_kind = kind


@pytest.mark.parametrize(
    ("kind", "peak"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("TPU v5 lite", 197e12), ("TPU v5p", 459e12),
     ("NVIDIA L40S", 362e12), ("cpu", None)],
)  # fmt: skip
def test_peaks(kind: str, peak: float | None) -> None:
    assert peak_flops(Device(kind)) == peak
