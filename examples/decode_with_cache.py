"""Greedy decoding with the functional cache, the whole loop in one compiled program.

    python examples/decode_with_cache.py

The model has random weights, so the text means nothing; load your own with AutoModelForCausalLM.from_pretrained.
"""

from functools import partial

import jax
import jax.numpy as jnp

import jaxformers as jf

CONFIG = jf.AutoConfig.for_model(
    "llama",
    vocab_size=128,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
)


@partial(jax.jit, static_argnames="new")
def greedy(model: jf.Model, ids: jax.Array, new: int) -> jax.Array:
    """Continue ids [B,T] by `new` tokens, each the likeliest. Returns [B,new]."""
    batch, length = ids.shape
    cache = model.init_cache(batch, length + new)
    out = model(input_ids=ids, past_key_values=cache)

    def step(carry, _):
        token, cache = carry
        out = model(input_ids=token[:, None], past_key_values=cache)
        return (best(out.logits), out.past_key_values), token

    return jax.lax.scan(step, (best(out.logits), out.past_key_values), length=new)[1].T


def best(logits: jax.Array) -> jax.Array:
    """The likeliest next token. logits [B,T,V]."""
    return jnp.argmax(logits[:, -1], axis=-1)


def main(new: int = 12) -> jax.Array:
    """Print and return what follows a short prompt."""
    model = jf.Model.init(CONFIG, jax.random.key(0), task="CausalLM")
    prompt = jnp.array([[1, 5, 9, 13], [1, 7, 3, 2]])
    tokens = greedy(model, prompt, new)
    print(tokens)
    return tokens


if __name__ == "__main__":
    main()
