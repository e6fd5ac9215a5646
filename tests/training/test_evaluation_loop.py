"""Evaluation weighs by what counts and leaves out what fills the last batch; predictions are transformers' tuples."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxformers as jf
from jaxformers.training.evaluation_loop import joined
from jaxformers.training.trainer_state import EvalPrediction
from tests.training import small

WORDS = dict(vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)


def llama() -> jf.Model:
    config = jf.AutoConfig.for_model("llama", **WORDS, num_key_value_heads=1, pad_token_id=0)
    return jf.Model.init(config, jax.random.key(0), task="CausalLM")


def unequal(count: int, length: int) -> list[dict[str, Any]]:
    """Texts of one length of which unequally many tokens count."""
    draw = np.random.default_rng(length)
    ids = draw.integers(1, 32, (count, length))
    counts = draw.integers(2, length, (count, 1))
    return [
        {"input_ids": row, "labels": np.where(np.arange(length) < n, row, -100)}
        for row, n in zip(ids, counts, strict=True)
    ]


def direct(model: jf.Model, data: list[dict[str, Any]]) -> float:
    """The mean over all tokens that count, of all rows at once."""
    ids, labels = (np.stack([row[name] for row in data]) for name in ("input_ids", "labels"))
    logits = model(input_ids=ids).logits[:, :-1]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, np.maximum(labels[:, 1:], 0))
    return float(jnp.sum(losses * (labels[:, 1:] != -100)) / (labels[:, 1:] != -100).sum())


def test_the_loss_is_the_mean_over_all_tokens(tmp_path: Path) -> None:
    model, data = llama(), unequal(7, 8)
    trainer = small.trainer(tmp_path, model, eval_dataset=data, per_device_eval_batch_size=3)
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(direct(model, data), rel=1e-6)
    assert trainer.state.log_history[-1]["eval_loss"] == metrics["eval_loss"]
    assert {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second"} <= metrics.keys()


def test_predictions_are_all_rows_and_no_more(tmp_path: Path) -> None:
    model, data = small.bert(), small.rows(7)
    seen: list[EvalPrediction] = []

    def measure(prediction: EvalPrediction) -> dict[str, Any]:
        seen.append(prediction)
        return {"accuracy": np.float32((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    trainer = small.trainer(
        tmp_path, model, compute_metrics=measure, per_device_eval_batch_size=3, include_for_metrics=["inputs", "loss"],
        eval_accumulation_steps=2,
    )  # fmt: skip
    out = trainer.predict(data)
    ids = np.stack([row["input_ids"] for row in data])
    np.testing.assert_allclose(out.predictions, model(input_ids=ids).logits, atol=1e-6)
    assert np.array_equal(out.label_ids, [row["labels"] for row in data])
    predictions, labels, metrics = out
    expected = float((predictions.argmax(-1) == labels).mean())
    assert metrics["test_accuracy"] == pytest.approx(expected) and isinstance(metrics["test_accuracy"], float)
    assert np.array_equal(seen[0].inputs, ids) and seen[0].losses.shape == (7,)
    mean = np.average(seen[0].losses)
    assert metrics["test_loss"] == pytest.approx(mean, rel=1e-5)


def test_without_labels_there_are_predictions_alone(tmp_path: Path) -> None:
    data = [{"input_ids": row["input_ids"]} for row in small.rows(3)]
    out = small.trainer(tmp_path).predict(data)
    assert out.predictions.shape == (3, 2) and out.label_ids is None and "test_loss" not in out.metrics


def test_base_models_predict(tmp_path: Path) -> None:
    config = jf.AutoConfig.for_model("llama", **WORDS, num_key_value_heads=1)
    model = jf.Model.init(config, jax.random.key(0))
    out = small.trainer(tmp_path, model, train_dataset=None).predict([{"input_ids": np.arange(4)}] * 2)
    assert out.predictions.shape == (2, 4, 8)


def test_batches_of_other_lengths_are_padded_with_minus_100() -> None:
    whole = joined([np.zeros((2, 3, 4)), np.ones((1, 5, 4))])
    assert whole.shape == (3, 5, 4) and (whole[:2, 3:] == -100).all() and (whole[2] == 1).all()
    assert np.array_equal(joined([np.arange(2), np.arange(3)]), [0, 1, 0, 1, 2])


def test_metrics_batch_by_batch(tmp_path: Path) -> None:
    counts: list[int] = []

    def measure(prediction: EvalPrediction, compute_result: bool) -> dict[str, int]:
        counts.append(len(prediction.predictions))
        return {"rows": sum(counts)} if compute_result else {}

    trainer = small.trainer(tmp_path, compute_metrics=measure, batch_eval_metrics=True, per_device_eval_batch_size=3)
    assert trainer.evaluate(small.rows(7))["eval_rows"] == 7 and counts == [3, 3, 1]


def test_several_datasets_have_names(tmp_path: Path) -> None:
    data = {"near": small.rows(4), "far": small.rows(4, seed=1)}
    trainer = small.trainer(tmp_path, eval_dataset=data)
    metrics = trainer.evaluate()
    assert metrics["eval_near_loss"] == trainer.evaluate("near", metric_key_prefix="x")["x_loss"]
    assert metrics["eval_near_loss"] != metrics["eval_far_loss"]


def test_outputs_can_be_reduced_on_the_devices(tmp_path: Path) -> None:
    trainer = small.trainer(
        tmp_path, preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
        compute_metrics=lambda p: {"right": int((p.predictions == p.label_ids).sum())},
    )  # fmt: skip
    out = trainer.predict(small.rows(6))
    assert out.predictions.shape == (6,) and 0 <= out.metrics["test_right"] <= 6


def test_what_a_model_writes_is_predicted(tmp_path: Path) -> None:
    sizes = dict(vocab_size=32, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    config = jf.AutoConfig.for_model("t5", **sizes, decoder_start_token_id=0, eos_token_id=31)
    model = jf.Model.init(config, jax.random.key(0), task="Seq2SeqLM")
    data = [{"input_ids": row["input_ids"], "labels": row["input_ids"][:3]} for row in small.rows(3)]
    trainer = small.trainer(tmp_path, model, predict_with_generate=True, generation_max_length=5)
    out = trainer.predict(data)
    ids = np.stack([row["input_ids"] for row in data])
    assert np.array_equal(out.predictions, model.generate(ids, max_length=5)) and out.metrics["test_loss"] > 0
