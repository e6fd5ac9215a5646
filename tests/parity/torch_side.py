"""The PyTorch side of the parity tests: tiny random models whose every number is perturbed, and their outputs."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from jaxformers.hub.checkpoint import open_checkpoint
from tests.parity.row import Row

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)


def make(row: Row) -> Any:
    """A model of the row's class with perturbed parameters and saved buffers, in evaluation mode."""
    torch.manual_seed(0)
    cls = getattr(transformers, row.hf)
    config = cls.config_class(**{**row.config, "attn_implementation": row.attn})
    model = cls(config).eval()
    saved = set(model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        for name, buffer in model.named_buffers():
            if name in saved and buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer) * 0.1)  # variances must stay positive
    if row.prepare is not None:
        row.prepare(model)
    return model


def run(model: Any, inputs: dict[str, np.ndarray], **options: Any) -> dict[str, Any]:
    """The output's fields as numpy arrays and tuples of them."""
    with torch.no_grad():
        out = model(**{k: torch.tensor(v) for k, v in inputs.items()}, **options)
    if isinstance(out, torch.Tensor):  # scores alone
        out = {"logits": out}
    return {k: to_numpy(v) for k, v in out.items() if v is not None}


def to_numpy(value: Any) -> Any:
    """Tensors to arrays inside tuples and nested outputs; other objects (caches) as they are."""
    if isinstance(value, torch.Tensor):
        return value.float().numpy() if value.is_floating_point() else value.numpy()
    if isinstance(value, (tuple, list)):
        return tuple(to_numpy(v) for v in value)
    if isinstance(value, transformers.utils.ModelOutput):
        return {k: to_numpy(v) for k, v in value.items() if v is not None}
    return value


def gradients(model: Any, folder: Path) -> dict[str, np.ndarray]:
    """Each parameter's gradient under the name that the parameter has in files; the model's own numbers are lost."""
    nothing = float("nan")  # what has no gradient, and so is not compared
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.full_like(parameter, nothing) if parameter.grad is None else parameter.grad)
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.fill_(nothing)
    saved = open_checkpoint(save(model, folder))
    return {k: np.array(v) for k, v in saved.items() if np.isfinite(v).all()}


def save(model: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Save in a precision, leaving the model as it was."""
    if dtype != torch.float32:
        model.to(dtype)
    model.save_pretrained(folder)
    if dtype != torch.float32:
        model.to(torch.float32)
    return folder
