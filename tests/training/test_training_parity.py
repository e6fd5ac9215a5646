"""Fine-tuning follows transformers' Trainer: the same losses, norms and rates, step by step."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

import jaxformers as jf
from jaxformers.training.arguments import TrainingArguments
from jaxformers.training.trainer import Trainer
from tests.training import pairs

STEPS = 20
# Twelve rows in batches of four, two of them an update: every epoch ends with an update of one batch.
ARGUMENTS: dict[str, Any] = dict(
    max_steps=STEPS, per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=3e-3, warmup_steps=5,
    weight_decay=0.01, max_grad_norm=0.5, logging_steps=1, save_strategy="no", disable_tqdm=True,
    train_sampling_strategy="sequential",
)  # fmt: skip


class MeanOfBatches(transformers.Trainer):
    """For heads that ignore `num_items_in_batch` (BERT's, T5's): without this, losses of accumulated batches add up."""

    loss_is_scaled_for_ga = False


def theirs(model: transformers.PreTrainedModel, data: list[dict[str, Any]], folder: Path) -> transformers.Trainer:
    ignores = isinstance(model, (transformers.BertForSequenceClassification, transformers.T5ForConditionalGeneration))
    kind = MeanOfBatches if ignores else transformers.Trainer
    trainer = kind(model, transformers.TrainingArguments(str(folder), use_cpu=True, **ARGUMENTS), train_dataset=data)
    trainer.train()
    return trainer


def ours(source: Path, data: list[dict[str, Any]], folder: Path, **changes: Any) -> Trainer:
    auto = {"llama": "CausalLM", "bert": "SequenceClassification", "t5": "Seq2SeqLM", "vit": "ImageClassification"}
    config = jf.AutoConfig.from_pretrained(source)
    model = getattr(jf, f"AutoModelFor{auto[config.model_type]}").from_pretrained(
        source, scan=True
    )  # one layer to compile
    args = TrainingArguments(str(folder), **{**ARGUMENTS, "mesh": None, "run_summary": False, **changes})
    trainer = Trainer(model, args, train_dataset=data)
    trainer.train()
    return trainer


def logged(trainer: Any, name: str) -> np.ndarray:
    return np.array([entry[name] for entry in trainer.state.log_history if name in entry])


@pytest.mark.parametrize("name", ["llama", *(pytest.param(n, marks=pytest.mark.slow) for n in ("bert", "t5", "vit"))])
def test_twenty_steps(name: str, tmp_path: Path) -> None:
    model, data = pairs.model(name, tmp_path / "model"), pairs.rows(name, 12)
    mine = ours(tmp_path / "model", data, tmp_path / "ours")
    other = theirs(model, data, tmp_path / "theirs")
    assert len(logged(mine, "loss")) == STEPS
    for key, tolerance in (("loss", 1e-4), ("grad_norm", 1e-3), ("learning_rate", 1e-8), ("epoch", 1e-9)):
        np.testing.assert_allclose(logged(mine, key), logged(other, key), atol=tolerance, rtol=0, err_msg=key)
    assert logged(mine, "loss")[-1] < logged(mine, "loss")[0]
    assert mine.state.global_step == other.state.global_step and mine.state.max_steps == other.state.max_steps
    assert mine.state.num_train_epochs == other.state.num_train_epochs
