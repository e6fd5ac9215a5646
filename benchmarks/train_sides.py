"""The two sides of a train step: torch's with fused AdamW, and ours, from the same files and on the same batch."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

THREADS = 2
RATE, DECAY, CLIP = 1e-4, 0.01, 1.0


@dataclass(frozen=True)
class Case:
    """A model by transformers' class and options, and its batch by sizes (rows, tokens), or rows of pictures."""

    cls: str
    options: dict[str, Any]
    rows: int
    tokens: int = 0
    labelled: float = 1.0  # share of tokens that have a label


BERT_SMALL = dict(
    hidden_size=512, num_hidden_layers=4, num_attention_heads=8, intermediate_size=2048, hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)  # fmt: skip
LLAMA_60M = dict(
    vocab_size=32000, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
    num_key_value_heads=8, max_position_embeddings=1024,
)  # fmt: skip
VIT_S = dict(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536, num_labels=1000)

CASES = {
    "bert-small, 8 x 128": Case("BertForMaskedLM", BERT_SMALL, 8, 128, 0.15),
    "llama 60M, 2 x 256": Case("LlamaForCausalLM", LLAMA_60M, 2, 256),
    "vit-s/16, batch 8": Case("ViTForImageClassification", VIT_S, 8),
}
# The same models made small, to see that everything runs.
SMALL = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)
QUICK = {
    "bert, quick": Case("BertForMaskedLM", BERT_SMALL | SMALL | {"vocab_size": 500}, 4, 32, 0.15),
    "llama, quick": Case("LlamaForCausalLM", LLAMA_60M | SMALL | {"vocab_size": 500, "num_key_value_heads": 2}, 2, 64),
    "vit, quick": Case("ViTForImageClassification", VIT_S | SMALL, 2),
}


def batch_of(case: Case) -> dict[str, np.ndarray]:
    """Random inputs and labels, the same on both sides."""
    draw = np.random.RandomState(0)
    if not case.tokens:
        pixels = draw.randn(case.rows, 3, 224, 224).astype(np.float32)
        return {"pixel_values": pixels, "labels": draw.randint(0, case.options["num_labels"], case.rows)}
    ids = draw.randint(5, case.options.get("vocab_size", 30522), (case.rows, case.tokens))
    hidden = draw.rand(*ids.shape) >= case.labelled
    return {"input_ids": ids, "labels": np.where(hidden, -100, ids)}


def write(case: Case, folder: str) -> None:
    """Random weights as transformers saves them."""
    import torch
    import transformers

    torch.manual_seed(0)
    kind = getattr(transformers, case.cls)
    kind(kind.config_class(**case.options)).save_pretrained(folder)


def torch_step(case: Case, folder: str, compiled: bool = False, device: str = "cpu") -> Callable[[], Any]:
    """One step of torch; the call returns its loss."""
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    transformers.logging.disable_progress_bar()
    model = getattr(transformers, case.cls).from_pretrained(folder).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    tensors = {name: torch.tensor(value, device=device) for name, value in batch_of(case).items()}
    run = torch.compile(model) if compiled else model

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = run(**tensors).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss.detach()

    return step


def our_step(case: Case, folder: str, scan: bool = False) -> Callable[[], Any]:
    """One step of ours, waited for; the call returns its loss."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    import jaxformers as jf

    task = case.cls.split("For")[1]
    model = getattr(jf, f"AutoModelFor{task}").from_pretrained(Path(folder), scan=scan)
    optimizer = jf.optimizer("adamw", RATE, weight_decay=DECAY, decay=None)
    train = jf.make_train_step(jf.loss_for(model), optimizer, max_grad_norm=CLIP)
    state = train.init(model, jax.random.key(0))
    batch = jax.device_put(batch_of(case))

    def step() -> Any:
        nonlocal state
        state, metrics = jax.block_until_ready(train(state, batch))
        return metrics["loss"]

    return step
