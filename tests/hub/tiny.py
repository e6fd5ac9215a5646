"""Tiny checkpoints made by transformers, for the tests of loading and saving."""

from pathlib import Path

import torch
import transformers

SIZES = dict(
    vocab_size=96, hidden_size=64, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4,
    intermediate_size=128, max_position_embeddings=64, pad_token_id=0,
)  # fmt: skip


def llama(folder: Path, dtype: torch.dtype = torch.float32, **changes) -> transformers.LlamaForCausalLM:
    """Save a random Llama and return it."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.to(dtype).save_pretrained(folder)
    return model
