"""Tiny models with data, made for both sides: a folder for ours, transformers' own model, and rows of equal length."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as t

WORDS, CLASSES = 48, 3
DROPLESS = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)


def llama() -> t.PreTrainedModel:
    return t.LlamaForCausalLM(
        t.LlamaConfig(**SMALL, vocab_size=WORDS, num_key_value_heads=1, max_position_embeddings=32, pad_token_id=0)
    )


def bert() -> t.PreTrainedModel:
    return t.BertForSequenceClassification(
        t.BertConfig(**SMALL, **DROPLESS, vocab_size=WORDS, max_position_embeddings=32, num_labels=CLASSES)
    )


def t5() -> t.PreTrainedModel:
    return t.T5ForConditionalGeneration(
        t.T5Config(
            d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, vocab_size=WORDS, dropout_rate=0.0, pad_token_id=0,
            decoder_start_token_id=0, feed_forward_proj="gated-gelu",
        )
    )  # fmt: skip


def vit() -> t.PreTrainedModel:
    return t.ViTForImageClassification(
        t.ViTConfig(**SMALL, **DROPLESS, image_size=16, patch_size=8, num_labels=CLASSES)
    )


MODELS = {"llama": llama, "bert": bert, "t5": t5, "vit": vit}


def model(name: str, folder: Path) -> t.PreTrainedModel:
    """transformers' model, saved into the folder."""
    torch.manual_seed(0)
    made = MODELS[name]()
    made.save_pretrained(folder)
    return made


def rows(name: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows that the model can learn something from; of texts, the last words may be padding that does not count."""
    draw = np.random.default_rng(seed)
    if name == "vit":
        labels = draw.integers(0, CLASSES, count)
        pictures = draw.normal(size=(count, 3, 16, 16)).astype(np.float32) + labels[:, None, None, None] / 2
        return [{"pixel_values": p.astype(np.float32), "labels": int(n)} for p, n in zip(pictures, labels, strict=True)]
    ids = (draw.integers(3, WORDS, (count, 1)) + np.arange(12)) % (WORDS - 3) + 3
    real = np.arange(12) < draw.integers(6, 13, (count, 1))
    ids = np.where(real, ids, 0)
    # transformers weighs T5's batches alike, whatever their labels: give each as many.
    labels = {"bert": ids[:, 0] % CLASSES, "llama": np.where(real, ids, -100), "t5": ids[:, :6][:, ::-1]}
    return [
        {"input_ids": ids[n], "attention_mask": real[n].astype(np.int64), "labels": labels[name][n].copy()}
        for n in range(count)
    ]
