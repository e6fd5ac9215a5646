"""Llama at 8B shape without weights, and what is compiled of it ahead of time: a forward and a training step."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxformers as jf
from jaxformers.hub.abstract_model import abstract_model

GIB = 2**30
LLAMA_8B = dict(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8, max_position_embeddings=8192,
    rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
)  # fmt: skip


def llama(mesh: Mesh, dtype: Any) -> jf.Model:
    """A scanned Llama 8B whose leaves are shapes with their shardings."""
    config = jf.AutoConfig.for_model("llama", **LLAMA_8B)
    return abstract_model(config, task="CausalLM", mesh=mesh, rules=jf.FSDP_TENSOR, dtype=dtype, scan=True)


def tokens(mesh: Mesh, batch: int, length: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((batch, length), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))


def compile_forward(mesh: Mesh, batch: int, length: int) -> Any:
    """The logits of a batch, in bfloat16."""
    model = llama(mesh, jnp.bfloat16)
    return jax.jit(lambda m, ids: m(input_ids=ids).logits).lower(model, tokens(mesh, batch, length)).compile()


def compile_train_step(mesh: Mesh, batch: int, length: int) -> Any:
    """One step of AdamW in float32, computing in bfloat16, every layer's activations computed again."""
    model = llama(mesh, jnp.float32)
    step = jf.make_train_step(jf.loss_for(model), jf.optimizer("adamw", 1e-4), dtype="bfloat16", remat="full")
    ids = tokens(mesh, batch, length)
    return step.lower(*step.abstract(model, {"input_ids": ids, "labels": ids})).compile()


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
