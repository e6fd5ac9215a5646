"""A whole training run of a tiny llama, for tests that start it as one process or several, and end it in the middle.

python -m tests.training.small_run FOLDER --steps 12 --save-every 4 [--mesh fsdp=2,tensor=2]; each step's loss is a line
of FOLDER/losses.jsonl, exact to the bit. Wherever it was ended, the same command goes on from the newest checkpoint.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxformers as jf
from jaxformers.core.mesh import make_mesh
from jaxformers.core.sharding import FSDP_TENSOR
from jaxformers.training.checkpoints import Checkpoints
from jaxformers.training.data.device import host_share
from jaxformers.training.data.loader import DataLoader
from jaxformers.training.distributed import initialize, is_first
from jaxformers.training.losses.output import LossOutput
from jaxformers.training.preemption import EXIT_STATUS, Preemption
from jaxformers.training.step import make_train_step

SIZES = dict(
    vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=48, max_position_embeddings=32, attention_dropout=0.1,
)  # fmt: skip
ROWS, LENGTH, BATCH = 40, 16, 8


def loss(model: Any, batch: dict[str, jax.Array], key: jax.Array | None) -> LossOutput:
    """Next-token cross-entropy, with dropout where there is a key."""
    ids = batch["input_ids"]
    logits = model(input_ids=ids, **({} if key is None else {"train": True, "key": key})).logits
    each = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1].astype(jnp.float32), ids[:, 1:])
    return LossOutput(total=each.sum(), weight=jnp.float32(each.size), metrics={})


def model_of(mesh: Any = None, scan: bool = True) -> jf.Model:
    """A tiny llama with fresh parameters, over a mesh if there is one."""
    config = jf.AutoConfig.for_model("llama", **SIZES)
    return jf.Model.init(config, jax.random.key(0), task="CausalLM", mesh=mesh, rules=FSDP_TENSOR, scan=scan)


def rows() -> list[dict[str, np.ndarray]]:
    """Sentences that repeat themselves, so that there is something to learn."""
    draw = np.random.RandomState(0)
    return [{"input_ids": np.tile(draw.randint(3, 64, 4), LENGTH // 4)} for _ in range(ROWS)]


def optimizer() -> optax.GradientTransformation:
    return optax.adamw(3e-3)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--save-every", type=int, default=4)
    parser.add_argument("--mesh", default="")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds of each step, to be ended in")
    parser.add_argument("--keep", type=int, default=2)
    parser.add_argument("--export", action="store_true", help="save the model for transformers at the end")
    return parser.parse_args()


def note(file: Path, step: int, value: Any) -> None:
    """Add a line with a step's loss."""
    value = float(value)
    if is_first():
        with open(file, "a") as out:
            out.write(json.dumps({"step": step, "loss": value, "exact": value.hex()}) + "\n")


def main() -> None:
    options = arguments()
    initialize()
    sizes = {axis: int(size) for axis, size in (pair.split("=") for pair in options.mesh.split(",") if pair)}
    mesh = make_mesh(**sizes) if sizes else None
    train = make_train_step(loss, optimizer(), mesh=mesh, rules=FSDP_TENSOR, max_grad_norm=1.0)
    share = host_share(mesh, FSDP_TENSOR, BATCH) if mesh else (0, 1)
    loader = DataLoader(rows(), batch_size=BATCH, shuffle=True, seed=1, process_index=share[0], process_count=share[1])
    with Checkpoints(options.folder, keep=options.keep) as checkpoints, Preemption() as preemption:
        state = train.init(model_of(mesh), jax.random.key(7))
        if checkpoints.steps():
            state, extra = checkpoints.restore(state)
            loader.restore(extra["data"])
        done = int(jax.device_get(state.step))
        for batch in loader:
            if done >= options.steps:
                break
            state, metrics = train(state, batch)
            done += 1
            note(options.folder / "losses.jsonl", done, jax.device_get(metrics["loss"]))
            told = preemption.reached(done)
            if told or done % options.save_every == 0:
                checkpoints.save(state, {"data": loader.state()})
            if told:
                checkpoints.wait()
                raise SystemExit(EXIT_STATUS)
            time.sleep(options.pause)
    if options.export:
        state.model.save_pretrained(options.folder / "model", shard_size="20KB")


if __name__ == "__main__":
    main()
