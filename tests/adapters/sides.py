"""Models with adapters on both sides: tiny ones of transformers, with adapters made by peft or by us."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import peft
import torch
import transformers

import jaxformers as jf
from jaxformers.hub.checkpoint import open_file
from jaxformers.hub.model import Model

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

TEXT = dict(vocab_size=96, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48)
LLAMA = {**TEXT, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0}
GPT2 = dict(vocab_size=96, n_positions=64, n_embd=32, n_layer=3, n_head=4)
T5 = dict(vocab_size=96, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
VIT = dict(image_size=16, patch_size=8, num_labels=5, **{k: v for k, v in TEXT.items() if k != "vocab_size"})
DEEPSEEK = {
    **LLAMA, **dict(q_lora_rank=12, kv_lora_rank=16, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8),
    **dict(num_key_value_heads=4, num_hidden_layers=2, first_k_dense_replace=2),
    **dict(n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1),
}  # fmt: skip
NEOX = {**TEXT, "max_position_embeddings": 64, "rotary_pct": 0.5}
ALBERT = {**TEXT, "embedding_size": 16, "max_position_embeddings": 64}
MAMBA = dict(vocab_size=96, hidden_size=32, state_size=4, num_hidden_layers=2, time_step_rank=4, pad_token_id=0)


@dataclass(frozen=True)
class Case:
    """A transformers class and peft's options for it."""

    hf: str
    config: dict[str, Any]
    lora: dict[str, Any]
    name: str = ""
    tolerance: float = 1e-5

    def __str__(self) -> str:
        return f"{self.hf}-{self.name or '-'.join(map(str, self.lora.get('target_modules', '')))}"


def torch_model(case: Case) -> Any:
    """A random model of the class, every number perturbed."""
    torch.manual_seed(0)
    cls = getattr(transformers, case.hf)
    model = cls(cls.config_class(**case.config)).eval()
    perturb(model.parameters())
    return model


def perturb(parameters: Any) -> None:
    """Move numbers so that no zero or one hides a mistake."""
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter) * 0.05)


def with_peft(case: Case, folder: Path) -> Any:
    """The torch model in folder/base with peft's adapter in folder/adapter; returns the PeftModel."""
    model = torch_model(case)
    model.save_pretrained(folder / "base")
    base = type(model).from_pretrained(folder / "base").eval()
    options = {**case.lora}
    adapted = peft.get_peft_model(base, peft.LoraConfig(**options)).eval()
    perturb(p for p in adapted.parameters() if p.requires_grad)
    adapted.save_pretrained(folder / "adapter")
    return adapted


def inputs(case: Case) -> dict[str, np.ndarray]:
    """A batch for the class."""
    rng = np.random.RandomState(0)
    if case.hf.startswith("ViT"):
        return {"pixel_values": rng.randn(2, 3, 16, 16).astype(np.float32)}
    ids = {"input_ids": rng.randint(3, 96, (2, 7))}
    return {**ids, "decoder_input_ids": rng.randint(3, 96, (2, 5))} if case.hf.startswith("T5") else ids


def scores(out: Any) -> Any:
    """What is compared: logits, or the last hidden state of a base model."""
    return out["logits"] if "logits" in out.keys() else out["last_hidden_state"]


def torch_scores(model: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    """The torch model's scores."""
    with torch.no_grad():
        return scores(model(**{k: torch.tensor(v) for k, v in batch.items()})).numpy()


def torch_gradients(model: Any, batch: dict[str, np.ndarray], weights: np.ndarray) -> dict[str, np.ndarray]:
    """{parameter: gradient of sum(scores * weights)} under the names that peft's file has."""
    model.zero_grad()
    out = scores(model(**{k: torch.tensor(v) for k, v in batch.items()}))
    (out * torch.tensor(weights)).sum().backward()
    found = {n: p.grad.numpy() for n, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    return {name.replace(".default", "").replace(".modules_to_save", ""): grad for name, grad in found.items()}


def perturbed(model: Model, size: float = 0.05) -> Model:
    """Ours with every number of its adapter moved."""
    leaves, tree = jax.tree.flatten(model.adapters)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    moved = [x + size * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)]
    return model.replace(adapters=jax.tree.unflatten(tree, moved))


def gap(ours: Any, theirs: np.ndarray) -> float:
    """The largest difference, against the size of the numbers."""
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def file_of(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of an adapter's folder."""
    return {k: np.array(v) for k, v in open_file(folder / "adapter_model.safetensors").items()}


def load(folder: Path, **options: Any) -> Model:
    """Ours, of folder/base with folder/adapter."""
    return jf.load_adapter(Model.from_pretrained(folder / "base", **options), folder / "adapter")
