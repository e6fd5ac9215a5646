"""Load a checkpoint over eight devices and take one optimiser step; here the devices are parts of the CPU.

python examples/sharded_llama.py
"""

import os
import tempfile

# Only for trying this without accelerators: the count is fixed once jax starts.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import optax

import jaxformers as jf

CONFIG = jf.AutoConfig.for_model(
    "llama",
    vocab_size=128,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=4,
)


def loss(model: jf.Model, ids: jax.Array) -> jax.Array:
    """Mean cross-entropy of each next token. ids [B,T]."""
    logits = model(input_ids=ids[:, :-1]).logits.astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]).mean()


def main() -> tuple[float, float]:
    """Return the loss before and after the step."""
    with tempfile.TemporaryDirectory() as folder:
        jf.Model.init(CONFIG, jax.random.key(0), task="CausalLM").save_pretrained(folder)
        mesh = jf.make_mesh(fsdp=2, tensor=4)
        # Each device reads only its own shard of the file.
        model = jf.AutoModelForCausalLM.from_pretrained(folder, mesh=mesh, rules=jf.FSDP_TENSOR, scan=True)
    weight = model.params["backbone"]["layers"]["0:4:1"]["0"]["mlp"]["up_proj"]["weight"]
    print(f"up_proj of all layers {weight.shape}, on each device {weight.addressable_shards[0].data.shape}")

    optimizer = optax.adamw(1e-2)

    @jax.jit
    def step(model: jf.Model, state: optax.OptState, ids: jax.Array):
        value, grads = jax.value_and_grad(loss)(model, ids)
        updates, state = optimizer.update(grads, state, model)
        return optax.apply_updates(model, updates), state, value

    ids = jax.random.randint(jax.random.key(1), (8, 17), 0, CONFIG.vocab_size)
    state = optimizer.init(model)
    model, state, before = step(model, state, ids)
    after = loss(model, ids)
    print(f"loss {before:.4f}, after one step {after:.4f}")
    return float(before), float(after)


if __name__ == "__main__":
    main()
