"""Decoders: checkpoints of one head serve another, dropout drops, and the padding row starts at zero."""

from pathlib import Path

import jax
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.models import read_config

SIZES = dict(
    vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=48, max_position_embeddings=64, pad_token_id=3,
)  # fmt: skip
IDS = np.array([[5, 6, 7, 8, 9]])


@pytest.mark.parametrize("saved", ["QuestionAnswering", "CausalLM", None])
def test_one_head_to_another(saved: str | None, tmp_path: Path) -> None:
    """The backbone is found under the name that the saving class gave it."""
    model = jf.Model.init(read_config({**SIZES, "model_type": "qwen2"}), jax.random.key(0), task=saved)
    model.save_pretrained(tmp_path)
    base = jf.AutoModel.from_pretrained(tmp_path)
    other = jf.AutoModelForTokenClassification.from_pretrained(tmp_path, key=jax.random.key(1))
    expected = model.params if saved is None else model.params["backbone"]
    for params in (base.params, other.params["backbone"]):
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), params, expected))


def test_dropout() -> None:
    """Residual and attention dropout act in training only, and follow the key."""
    config = read_config({**SIZES, "model_type": "phi3", "resid_pdrop": 0.5, "attention_dropout": 0.5})
    model = jf.Model.init(config, jax.random.key(0))
    first, second, again = (
        np.asarray(model(input_ids=IDS, train=True, key=jax.random.key(k)).last_hidden_state) for k in (0, 1, 0)
    )
    plain = np.asarray(model(input_ids=IDS).last_hidden_state)
    assert (first == again).all() and np.abs(first - second).max() > 0.1 and np.abs(first - plain).max() > 0.1


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite"])
def test_initial_values(name: str) -> None:
    """Words are normal with the config's deviation, the padding token is zero, and norms start as the identity."""
    model = jf.Model.init(read_config({**SIZES, "model_type": name, "initializer_range": 0.5}), jax.random.key(0))
    table = np.asarray(model.params["embed"]["embedding"])
    assert (table[3] == 0).all() and abs(np.delete(table, 3, 0).std() - 0.5) < 0.05
    scale = np.asarray(model.params["norm"]["scale"])
    assert (scale == (0.0 if name == "gemma2" else 1.0)).all()
