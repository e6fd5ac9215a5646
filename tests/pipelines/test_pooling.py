"""Pooling against its definition, text by text, and the checkpoint files that choose it."""

import json

import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from jaxformers.core.errors import CheckpointError
from jaxformers.pipelines.pooling import FUNCTIONS, Dense, Normalize, Pooling, Stages, read_stages

BY_HAND = {
    "cls": lambda rows: rows[0],
    "max": lambda rows: rows.max(0),
    "mean": lambda rows: rows.mean(0),
    "mean_sqrt_len_tokens": lambda rows: rows.sum(0) / np.sqrt(len(rows)),
    "weightedmean": lambda rows: np.average(rows, axis=0, weights=np.arange(1, len(rows) + 1)),
    "lasttoken": lambda rows: rows[-1],
}


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=3, max_size=3), seed=st.integers(0, 2**16))
@pytest.mark.parametrize("mode", sorted(FUNCTIONS))
def test_pooling_is_its_definition(mode, lengths, seed):
    hidden = np.random.default_rng(seed).normal(size=(3, 6, 5)).astype(np.float32)
    mask = (np.arange(6) < np.array(lengths)[:, None]).astype(np.int32)
    expected = [BY_HAND[mode](row[:length]) for row, length in zip(hidden, lengths, strict=True)]
    np.testing.assert_allclose(jax.jit(Pooling((mode,)))(hidden, mask), expected, atol=1e-6)


def test_several_poolings_stand_side_by_side():
    hidden, mask = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32), np.ones((2, 4), np.int32)
    both = Pooling(("cls", "mean"))(hidden, mask)
    np.testing.assert_allclose(both, np.concatenate([hidden[:, 0], hidden.mean(1)], -1), rtol=1e-6)


def test_normalize_leaves_zero_alone():
    x = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(Normalize()(x), [[0.6, 0.8], [0, 0]], rtol=1e-6)


def write_modules(folder, stages, configs):
    kinds = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in stages]
    (folder / "modules.json").write_text(json.dumps(kinds))
    for path, config in configs.items():
        (folder / path).mkdir(exist_ok=True)
        (folder / path / "config.json").write_text(json.dumps(config))


def test_a_plain_checkpoint_takes_the_mean(tmp_path):
    assert read_stages(tmp_path) == Stages(Pooling(("mean",)))


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode_lasttoken": True}, ("lasttoken",)),
        ({"pooling_mode": "weightedmean"}, ("weightedmean",)),
    ],
)
def test_both_forms_of_the_pooling_file(tmp_path, config, modes):
    write_modules(tmp_path, [("Transformer", ""), ("Pooling", "1_Pooling")], {"1_Pooling": config})
    assert read_stages(tmp_path).pooling.modes == modes


@pytest.mark.parametrize(
    ("stages", "config", "message"),
    [
        ([("Transformer", ""), ("Pooling", "p")], {"pooling_mode": "attention"}, "found .*attention"),
        ([("Transformer", ""), ("Pooling", "p")], {"pooling_mode_new_idea": True}, "pooling_mode_new_idea"),
        ([("Transformer", ""), ("Pooling", "p")], {}, "no pooling mode"),
        ([("Transformer", ""), ("Pooling", "p"), ("LSTM", "l")], {"pooling_mode": "mean"}, "stage 'LSTM'"),
        ([("Transformer", "")], {}, "no Pooling stage"),
    ],
)
def test_unknown_stages_are_refused(tmp_path, stages, config, message):
    write_modules(tmp_path, stages, {"p": config})
    with pytest.raises(CheckpointError, match=message):
        read_stages(tmp_path)


def test_dense_stage_equals_torch(tmp_path):
    linear = torch.nn.Linear(6, 4)
    config = {"in_features": 6, "out_features": 4, "activation_function": "torch.nn.modules.activation.Tanh"}
    stages = [("Transformer", ""), ("Pooling", "p"), ("Dense", "d"), ("Normalize", "n")]
    write_modules(tmp_path, stages, {"p": {"pooling_mode": "mean"}, "d": config})
    tensors = {f"linear.{name}": value.detach().numpy() for name, value in linear.named_parameters()}
    save_file(tensors, tmp_path / "d" / "model.safetensors")
    read = read_stages(tmp_path)
    assert [type(stage) for stage in read.rest] == [Dense, Normalize]
    hidden = np.random.default_rng(0).normal(size=(2, 3, 6)).astype(np.float32)
    mask = np.array([[1, 1, 1], [1, 1, 0]])
    pooled = torch.stack([torch.tensor(hidden[0]).mean(0), torch.tensor(hidden[1, :2]).mean(0)])
    expected = torch.nn.functional.normalize(torch.tanh(linear(pooled)), dim=-1)
    np.testing.assert_allclose(read(hidden, mask), expected.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("text", ["", "{}", '[{"type": "x"}]', "[1]", '[{"type": 1, "path": ""}]'])
def test_broken_modules_file_is_named(tmp_path, text):
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"modules\.json"):
        read_stages(tmp_path)
