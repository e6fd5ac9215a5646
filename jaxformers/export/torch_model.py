"""The PyTorch side of a comparison: load, run with every module watched, and tell which module holds a weight."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxformers.core.errors import MissingExtra

# {module: (first input, first output) of each call}, in the order in which the modules finish.
Calls = dict[str, list[tuple[np.ndarray | None, np.ndarray]]]


def load(architecture: str, path: str | Path) -> Any:
    """Load a checkpoint in float32 with eager attention. Raises MissingExtra when PyTorch is not installed."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtra(
            f"comparing with PyTorch needs torch and transformers ({error}): pip install 'jaxformers[test]'"
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    cls = getattr(transformers, architecture)
    return cls.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def run(model: Any, inputs: Mapping[str, np.ndarray], **options: Any) -> tuple[dict[str, Any], Calls]:
    """The output's fields as numpy arrays and tuples of them, and what every module read and returned."""
    import torch

    calls: Calls = {}

    def watch(name: str):
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            found = first_tensor(output)
            if found is not None:
                calls.setdefault(name, []).append((first_tensor((args, kwargs)), found))

        return hook

    handles = [m.register_forward_hook(watch(n), with_kwargs=True) for n, m in model.named_modules() if n]
    try:
        with torch.no_grad():
            out = model(**{k: torch.tensor(np.array(v)) for k, v in inputs.items()}, **options)
    finally:
        for handle in handles:
            handle.remove()
    return {k: to_numpy(v) for k, v in out.items() if v is not None}, calls


def first_tensor(value: Any) -> np.ndarray | None:
    """A copy of the first tensor in nested tuples, lists and mappings; later modules may write into the original."""
    if hasattr(value, "detach"):
        return np.array(value.detach().float().numpy())
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return next((found for item in value if (found := first_tensor(item)) is not None), None)
    return None


def to_numpy(value: Any) -> Any:
    """Tensors to arrays inside tuples and nested outputs; other objects (caches) as they are."""
    if hasattr(value, "detach"):
        return value.detach().float().numpy() if value.is_floating_point() else value.numpy()
    if isinstance(value, (tuple, list)):
        return tuple(to_numpy(v) for v in value)
    if isinstance(value, Mapping):
        return {k: to_numpy(v) for k, v in value.items() if v is not None}
    return value


def module_names(model: Any) -> dict[str, str]:
    """{key in saved files: module that holds the tensor}.

    Files may use other names than the modules do. What a file would hold is asked of transformers, and a tensor is
    recognised by its storage, which cutting a fused one does not change.
    """
    state = model.state_dict()
    holders = {t.untyped_storage().data_ptr(): name.rpartition(".")[0] for name, t in reversed(state.items())}
    saved = dict(state)
    try:
        from transformers.core_model_loading import revert_weight_conversion

        saved |= revert_weight_conversion(model, dict(state))
    except ImportError:
        pass  # transformers 4 saves under the modules' own names
    found = {key: holders.get(t.untyped_storage().data_ptr()) for key, t in saved.items() if hasattr(t, "detach")}
    found |= {key: key.rpartition(".")[0] for key in state}  # a tied tensor has one storage and two names
    return {key: name for key, name in found.items() if name is not None}
