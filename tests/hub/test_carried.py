"""BatchNorm's counters: no parameters of ours, yet a checkpoint gets them back bit for bit."""

from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers

import jaxformers as jf
from jaxformers.hub.checkpoint import open_checkpoint

SIZES = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1], "layer_type": "basic"}


def save(folder: Path) -> Path:
    """A ResNet classifier whose counters are all different, one beyond 32 bits."""
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(**SIZES))
    counters = [b for name, b in model.named_buffers() if name.endswith("num_batches_tracked")]
    for n, counter in enumerate(counters):
        counter.fill_(2**40 + n)
    model.save_pretrained(folder)
    return folder


def counters(folder: Path) -> dict[str, np.ndarray]:
    """The counters in a checkpoint."""
    tensors = open_checkpoint(folder)
    return {k: np.asarray(tensors[k]) for k in tensors if k.endswith("num_batches_tracked")}


@pytest.mark.parametrize("scan", [False, True])
def test_counters_come_back(tmp_path: Path, scan: bool) -> None:
    """The same keys, dtype and values after a round trip, also through a gradient step."""
    given = counters(save(tmp_path / "theirs"))
    model = jf.AutoModelForImageClassification.from_pretrained(tmp_path / "theirs", scan=scan)
    images = np.zeros((1, 3, 32, 32), np.float32)
    grads = jax.grad(lambda m: m(pixel_values=images).logits.sum())(model)
    jax.tree.map(lambda p, g: p - g, model, grads).save_pretrained(tmp_path / "ours")
    written = counters(tmp_path / "ours")
    assert written.keys() == given.keys() and len(given) == 8
    for key, value in given.items():
        assert written[key].dtype == np.int64 and written[key].shape == () and written[key] == value, key


def test_counters_follow_the_backbone(tmp_path: Path) -> None:
    """A base model loaded from a classifier's checkpoint writes them without the prefix, and PyTorch reads them."""
    given = counters(save(tmp_path / "theirs"))
    jf.AutoModel.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "base")
    written = counters(tmp_path / "base")
    assert {f"resnet.{k}": int(v) for k, v in written.items()} == {k: int(v) for k, v in given.items()}
    back, info = transformers.ResNetModel.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(back.embedder.embedder.normalization.num_batches_tracked, torch.tensor(2**40))
