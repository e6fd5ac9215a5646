"""Llama at 8B shape without weights, and what is compiled of it ahead of time: a forward and a training step."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxformers as jf
from jaxformers.core.sharding import use_mesh
from jaxformers.hub.abstract import abstract_params, flatten, unbox, unflatten
from jaxformers.hub.layout import relayout
from jaxformers.hub.load import leaf_shardings
from jaxformers.models import blueprint

GIB = 2**30
LLAMA_8B = dict(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8, max_position_embeddings=8192,
    rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
)  # fmt: skip


def abstract_model(mesh: Mesh, dtype: Any, compute_dtype: Any = None, remat: str | None = None) -> jf.Model:
    """A scanned Llama 8B whose leaves are shapes with their shardings."""
    config = jf.AutoConfig.for_model("llama", **LLAMA_8B)
    module = relayout(blueprint(config, "CausalLM").module, scan=True, remat=remat)
    boxed = abstract_params(module)
    places = leaf_shardings(boxed, mesh, jf.FSDP_TENSOR)
    flat = {p: jax.ShapeDtypeStruct(unbox(x).shape, dtype, sharding=places[p]) for p, x in flatten(boxed).items()}
    return jf.Model(
        unflatten(flat), module, config, "CausalLM", mesh=mesh, rules=jf.FSDP_TENSOR, compute_dtype=compute_dtype
    )


def tokens(mesh: Mesh, batch: int, length: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((batch, length), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))


def compile_forward(mesh: Mesh, batch: int, length: int) -> Any:
    """The logits of a batch, in bfloat16."""
    model = abstract_model(mesh, jnp.bfloat16)
    return jax.jit(lambda m, ids: m(input_ids=ids).logits).lower(model, tokens(mesh, batch, length)).compile()


def compile_train_step(mesh: Mesh, batch: int, length: int) -> Any:
    """One step of AdamW in float32, computing in bfloat16, every layer's activations computed again."""
    model = abstract_model(mesh, jnp.float32, jnp.bfloat16, remat="full")
    optimizer = optax.adamw(1e-4)

    def like(leaf: jax.ShapeDtypeStruct, spot: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=spot.sharding)

    state = optax.tree_map_params(
        optimizer,
        like,
        jax.eval_shape(optimizer.init, model.params),
        model.params,
        transform_non_params=lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(mesh, PartitionSpec())
        ),
    )

    def step(model: jf.Model, state: Any, ids: jax.Array) -> tuple[jf.Model, Any, jax.Array]:
        def loss(m: jf.Model) -> jax.Array:
            logits = m(input_ids=ids).logits[:, :-1].astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]).mean()

        value, grads = jax.value_and_grad(loss)(model)
        updates, state = optimizer.update(grads.params, state, model.params)
        return model.replace(params=optax.apply_updates(model.params, updates)), state, value

    with use_mesh(mesh, jf.FSDP_TENSOR):
        lowered = jax.jit(step, donate_argnums=(0, 1)).lower(model, state, tokens(mesh, batch, length))
    return lowered.compile()


def memory(compiled: Any) -> dict[str, float]:
    """GiB on each device."""
    found = compiled.memory_analysis()
    return {
        "arguments": found.argument_size_in_bytes / GIB,
        "temporary": found.temp_size_in_bytes / GIB,
        "output": found.output_size_in_bytes / GIB,
        "aliased": found.alias_size_in_bytes / GIB,
    }


def record(name: str, found: dict[str, float]) -> dict[str, float]:
    """Show the figures, and append them to the file that AOT_REPORT names."""
    print(name, {k: round(v, 3) for k, v in found.items()})
    if path := os.environ.get("AOT_REPORT"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"program": name, **found}) + "\n")
    return found
