"""Adapters on a quantised model are trained; the quantised matrices are not, and that is said."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxformers as jf
from jaxformers.core.errors import AdapterError
from jaxformers.quantization.quantize import dequantize

SIZES = dict(vocab_size=48, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)


@pytest.fixture(scope="module")
def quantized() -> jf.Model:
    config = jf.AutoConfig.for_model("llama", **SIZES, num_key_value_heads=1)
    return jf.quantize(jf.AutoModelForCausalLM.from_config(config, jax.random.key(0), scan=True), "fp8")


def batch() -> dict:
    ids = jnp.tile(jnp.arange(1, 9), (2, 1))
    return {"input_ids": ids, "labels": ids}


def test_an_adapter_learns_and_the_matrices_stay(quantized: jf.Model, tmp_path: Path) -> None:
    model = jf.lora(quantized, 4, ["q_proj", "down_proj"], alpha=8)
    step = jf.make_train_step(jf.loss_for(model), optax.adam(1e-2))
    state = step.init(model, jax.random.key(1))
    losses = []
    for _ in range(8):
        state, metrics = step(state, batch())
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] - 0.05
    jax.tree.map(np.testing.assert_array_equal, state.model.params, quantized.params)
    with pytest.raises(AdapterError, match="is quantised"):
        jf.merge_adapters(state.model)
    with jf.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
        restored, _ = checkpoints.restore(step.abstract(model, {})[0])
    jax.tree.map(np.testing.assert_array_equal, restored.model.params, quantized.params)


def test_gradients_of_an_adapter_are_those_over_the_matrices_it_stands_for(quantized: jf.Model) -> None:
    model = jf.lora(quantized, 2, ["v_proj"], alpha=8, key=jax.random.key(3))
    plain = dequantize(quantized).replace(adapters=model.adapters, adapter=model.adapter)
    loss = jf.loss_for(model)

    def gradient(model: jf.Model):
        def total(adapters):
            return loss(model.replace(adapters=adapters, adapter=model.adapter), batch(), None).total

        return jax.grad(total)(model.adapters)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), gradient(model), gradient(plain))


def test_a_quantised_model_alone_is_not_trained(quantized: jf.Model) -> None:
    def state(trainable):
        return jf.make_train_step(jf.loss_for(quantized), optax.sgd(1e-2), trainable=trainable).init(
            quantized, jax.random.key(0)
        )

    for trainable in (None, "q_proj", lambda name: "up_proj" in name):
        with pytest.raises(ValueError, match="quantised and cannot be trained"):
            state(trainable)
    assert state("norm").model is not None
    with pytest.raises(TypeError, match="no gradient"):
        jax.grad(lambda m: m(batch()["input_ids"]).logits.sum(), allow_int=True)(quantized)
