"""A model that compiles in a second, rows that it learns, and a Trainer for both."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxformers as jf
from jaxformers.training.arguments import TrainingArguments
from jaxformers.training.trainer import Trainer

SIZES = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, max_position_embeddings=16)


def bert(dropout: float = 0.0, seed: int = 0) -> jf.Model:
    """A classifier of two classes."""
    config = jf.AutoConfig.for_model(
        "bert", **SIZES, vocab_size=32, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
    )
    return jf.Model.init(config, jax.random.key(seed), task="SequenceClassification")


def rows(count: int, seed: int = 0, length: int = 6) -> list[dict[str, Any]]:
    """Texts whose class is whether the first word is even."""
    ids = np.random.default_rng(seed).integers(2, 32, (count, length))
    return [{"input_ids": row, "labels": int(row[0] % 2)} for row in ids]


def trainer(folder: Path, model: jf.Model | None = None, **options: Any) -> Trainer:
    """A Trainer on one device; options are its own, and TrainingArguments'."""
    own = {"train_dataset", "eval_dataset", "callbacks", "compute_metrics", "model_init", "data_collator", "optimizers"}
    own |= {"compute_loss_func", "processing_class", "preprocess_logits_for_metrics"}
    keywords = {name: options.pop(name) for name in own & options.keys()}
    plain = dict(
        mesh=None, disable_tqdm=True, run_summary=False, log_throughput=False, save_strategy="no", logging_steps=1
    )
    args = TrainingArguments(
        str(folder), **{**plain, "per_device_train_batch_size": 4, "learning_rate": 1e-2, **options}
    )
    if "model_init" not in keywords:
        keywords["model"] = bert() if model is None else model
    return Trainer(args=args, **{"train_dataset": rows(12), **keywords})


def losses(made: Trainer) -> list[float]:
    """The logged losses of the steps."""
    return [entry["loss"] for entry in made.state.log_history if "loss" in entry]


def same(a: Any, b: Any) -> bool:
    """Whether two trees hold the same bits."""
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(np.asarray(x), np.asarray(y)), a, b))
