"""Tiny models of four families and their losses, and what to look for in the programs that meshes make of them."""

import math
import re
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxformers as jf
from jaxformers.core.sharding import Rules

B, T, LAYERS = 8, 16, 3
TEXT = dict(vocab_size=64, hidden_size=32, num_hidden_layers=LAYERS, intermediate_size=48, pad_token_id=0)
TEXT |= dict(num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=32)
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("CausalLM", TEXT),
    "mixtral": ("CausalLM", TEXT | dict(num_local_experts=4, num_experts_per_tok=2, output_router_logits=True)),
    "t5": ("Seq2SeqLM", dict(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=LAYERS, num_heads=8)),
    "vit": (
        "ImageClassification",
        dict(hidden_size=32, num_hidden_layers=LAYERS, num_attention_heads=8, intermediate_size=48)
        | dict(image_size=12, patch_size=3, num_labels=8),
    ),
}
# The same in four layers, for stages; T5 in twice two.
EVEN = {
    f"even {kind}": (task, fields | {name: 2 if kind == "t5" else 4})
    for kind, (task, fields) in CONFIGS.items()
    for name in ("num_layers" if kind == "t5" else "num_hidden_layers",)
}
RNG = np.random.RandomState(0)
IDS = RNG.randint(1, 64, (B, T))
REAL = (np.arange(T)[None] < np.array([[T], [T - 5]] * (B // 2))).astype(np.int32)
PIXELS = RNG.randn(B, 3, 12, 12).astype(np.float32)


def cross_entropy(logits: jax.Array, labels: np.ndarray, weight: np.ndarray | None = None) -> jax.Array:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean() if weight is None else (losses * weight).sum() / weight.sum()


def loss(model: jf.Model) -> jax.Array:
    """A loss over the family's whole batch, padding and auxiliary losses included."""
    kind = model.config.model_type
    if kind == "vit":
        return cross_entropy(model(pixel_values=PIXELS).logits, np.arange(B) % 8)
    if kind == "t5":
        out = model(input_ids=IDS, attention_mask=REAL, decoder_input_ids=IDS[:, ::-1])
        return cross_entropy(out.logits, IDS)
    out = model(input_ids=IDS, attention_mask=REAL)
    aux = 0.02 * out.aux_loss if kind == "mixtral" else 0.0
    return cross_entropy(out.logits[:, :-1], IDS[:, 1:], REAL[:, 1:]) + aux


@cache
def tiny(kind: str, scan: bool) -> jf.Model:
    """A model on one device, with no zero or one left that could hide a mistake."""
    task, fields = (CONFIGS | EVEN)[kind]
    model = jf.Model.init(jf.AutoConfig.for_model(kind.split()[-1], **fields), jax.random.key(0), task=task, scan=True)
    leaves, tree = jax.tree.flatten(model)
    noise = [0.1 * np.random.RandomState(n).randn(*x.shape).astype(np.float32) for n, x in enumerate(leaves)]
    moved = jax.tree.unflatten(tree, [np.asarray(x) + y for x, y in zip(leaves, noise, strict=True)])
    return moved if scan else jf.restack(moved, scan=False)


@cache
def alone(kind: str, scan: bool) -> tuple[jax.Array, list[np.ndarray]]:
    """Loss and gradients on one device."""
    value, grads = jax.jit(jax.value_and_grad(loss))(tiny(kind, scan))
    return value, [np.asarray(g) for g in jax.tree.leaves(grads)]


def spread(kind: str, scan: bool, axes: dict[str, int], rules: Rules) -> jf.Model:
    """The same model on a mesh."""
    mesh = jf.make_mesh(**axes, devices=jax.devices()[: math.prod(axes.values())])
    model = tiny(kind, scan).replace(mesh=mesh, rules=rules)
    places = [jax.NamedSharding(mesh, row.spec) for row in jf.shardings(model, mesh, rules)]
    leaves, tree = jax.tree.flatten(model)
    return jax.tree.unflatten(tree, [jax.device_put(x, at) for x, at in zip(leaves, places, strict=True)])


def check(kind: str, scan: bool, axes: dict[str, int], rules: Rules, atol: float = 1e-5) -> Any:
    """Raise unless loss and gradients on the mesh are one device's; returns the model and the compiled program."""
    model = spread(kind, scan, axes, rules)
    places = jax.tree.map(lambda x: x.sharding, model)
    whole = jax.NamedSharding(model.mesh, jax.P())
    step = jax.jit(jax.value_and_grad(loss), out_shardings=(whole, places))
    program = step.lower(model).compile()
    value, grads = program(model)
    want, wanted = alone(kind, scan)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    for a, b, row in zip(jax.tree.leaves(grads), wanted, jf.shardings(model), strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4, err_msg=row.path)
    return model, program


def collectives(text: str) -> dict[str, list[tuple[int, ...]]]:
    """{kind: shapes of all results} of the collectives in a program's text."""
    out: dict[str, list[tuple[int, ...]]] = {}
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    for line in text.splitlines():
        found = re.search(rf" = (.*?) ({kinds})(-start)?\(", line)
        if found:
            shapes = re.findall(r"\w+\[([\d,]*)\]", found[1])
            out.setdefault(found[2], []).extend(tuple(int(n) for n in s.split(",") if n) for s in shapes)
    return out


def cut_shapes(model: jf.Model) -> set[tuple[int, ...]]:
    """Whole shapes of the stacked matrices that the mesh cuts."""
    return {row.shape for row in jf.shardings(model) if row.shard != row.shape and len(row.shape) > 2}


def parameter_bytes(model: jf.Model) -> int:
    return sum(jnp.size(x) * 4 for x in jax.tree.leaves(model))
