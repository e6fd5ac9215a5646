"""LoRA as a pure function: a base model learns one text, an adapter of few numbers another, and peft could load it.

python examples/lora.py
"""

import inspect
import json
import tempfile
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxformers as jf

CONFIG = jf.AutoConfig.for_model(
    "llama",
    vocab_size=128,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)


def rows(text: str, seed: int) -> jax.Array:
    """Sixteen random pieces of a text as bytes, Int [16,64]."""
    codes = np.frombuffer(text.encode(), np.uint8) % 128
    starts = np.random.RandomState(seed).randint(0, len(codes) - 64, 16)
    return jnp.asarray(np.stack([codes[start : start + 64] for start in starts]), jnp.int32)


def loss(model: jf.Model, ids: jax.Array) -> jax.Array:
    """Mean cross-entropy of each next byte."""
    logits = model(input_ids=ids[:, :-1]).logits.astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]).mean()


def learn(model: jf.Model, part: str, text: str, steps: int) -> jf.Model:
    """Train one part of a model, its `params` or its `adapters`; the other is an argument like the text."""
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(leaves, state, model, ids):
        grads = jax.grad(lambda leaves: loss(model.replace(**{part: leaves}), ids))(leaves)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(leaves, updates), state

    leaves = getattr(model, part)
    state = optimizer.init(leaves)
    for number in range(steps):
        leaves, state = step(leaves, state, model, rows(text, number))
    return model.replace(**{part: leaves})


def main() -> tuple[float, float]:
    """Return the loss on the second text before and after the adapter is trained."""
    first, second = inspect.getsource(json), inspect.getsource(textwrap)
    with tempfile.TemporaryDirectory() as folder:
        base, adapter = Path(folder) / "base", Path(folder) / "adapter"
        learn(jf.Model.init(CONFIG, jax.random.key(0), task="CausalLM"), "params", first, 60).save_pretrained(base)

        model = jf.lora(jf.AutoModelForCausalLM.from_pretrained(base), rank=4, targets="all-linear", alpha=8)
        print(model)
        held_out = rows(second, 1000)
        before = loss(model, held_out)
        model = learn(model, "adapters", second, 60)
        after = loss(model, held_out)
        print(f"loss {before:.3f}, with the adapter trained {after:.3f}")

        model.save_pretrained(adapter)  # adapter_model.safetensors and adapter_config.json, as peft writes them
        again = jf.AutoModelForCausalLM.from_pretrained(adapter)  # the base that the folder names, and the adapter
        merged = jf.merge_adapters(again)
        print(f"merged, the loss is {loss(merged, held_out):.3f}, in a {merged}")
    return float(before), float(after)


if __name__ == "__main__":
    main()
