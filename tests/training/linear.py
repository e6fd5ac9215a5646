"""A model of which two leaves are used, so that a whole train step compiles at once, and the loss they have."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxformers as jf

CONFIG = dict(
    vocab_size=24, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1,
)  # fmt: skip


@cache  # a step copies what it begins from
def model(scan: bool = False, **changes) -> jf.Model:
    config = jf.AutoConfig.for_model("llama", **{**CONFIG, **changes})
    return jf.Model.init(config, jax.random.key(0), task="CausalLM", scan=scan)


def loss(model: jf.Model, batch: dict, key: jax.Array | None) -> jf.LossOutput:
    """Cross-entropy of each label by the embedding and the head alone; a key drops values at random."""
    x = model.params["backbone"]["embed"]["embedding"][batch["input_ids"]]
    if key is not None and "drop" in batch:
        x = x * jax.random.bernoulli(key, 0.5, x.shape)
    dtype = model._static.compute_dtype or x.dtype
    logits = x.astype(dtype) @ model.params["head"]["weight"].astype(dtype).T
    labels = batch["labels"]
    counts = labels != -100
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), jnp.where(counts, labels, 0))
    right = jnp.argmax(logits, -1) == labels
    scale = batch.get("scale", jnp.float32(1))
    return jf.LossOutput(
        jnp.sum(losses * counts) * scale, jnp.sum(counts).astype(jnp.float32), {"accuracy": jnp.sum(right * counts)}
    )


def batch(rows: int = 8, length: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows in which different numbers of labels count."""
    draw = np.random.RandomState(seed)
    ids = draw.randint(0, CONFIG["vocab_size"], (rows, length))
    labels = draw.randint(0, CONFIG["vocab_size"], (rows, length))
    for row in range(rows):
        labels[row, 1 + row * length // rows :] = -100
    return {"input_ids": ids, "labels": labels}


def leaves(tree) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def assert_same(a, b, rtol: float = 0, atol: float = 0) -> None:
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)
