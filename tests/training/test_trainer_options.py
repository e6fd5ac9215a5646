"""Options that change how a model is trained: noise on embeddings, grouping, adapters, a mesh, plateaus, averages."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import linen as nn

import jaxformers as jf
from jaxformers.nn.embed import Embed
from jaxformers.nn.noise import with_noise
from jaxformers.training.trainer import Trainer
from tests.training import small


class Looks(nn.Module):
    """A table of tokens alone."""

    table: nn.Module = Embed(32, 8)

    def __call__(self, ids: jax.Array) -> jax.Array:
        return self.table(ids)


def test_noise_is_in_reach_while_training_and_never_else() -> None:
    ids = np.arange(6)[None]
    plain, noisy = Looks(), with_noise(Looks(), 5.0)
    variables = plain.init(jax.random.key(0), ids)
    still = plain.apply(variables, ids)
    assert np.array_equal(noisy.apply(variables, ids), still)
    moved = noisy.apply(variables, ids, rngs={"dropout": jax.random.key(1)}) - still
    reach = 5.0 / np.sqrt(6 * 8)
    assert 0.9 * reach < np.abs(moved).max() <= reach and abs(float(moved.mean())) < 0.2 * reach
    with pytest.raises(ValueError, match="no table of tokens"):
        with_noise(Embed(4, 2, axes=(None, "embed")), 5.0)


@pytest.mark.slow
def test_neftune_changes_training_alone(tmp_path: Path) -> None:
    runs = [small.trainer(tmp_path, max_steps=2, neftune_noise_alpha=alpha) for alpha in (None, 8.0)]
    for run in runs:
        run.train()
    assert small.losses(runs[0]) != small.losses(runs[1])
    assert runs[1].model.module == small.bert().module
    again = jf.Model.from_pretrained  # the module that is saved is the plain one
    runs[1].save_model()
    assert small.same(again(tmp_path, task="SequenceClassification").params, runs[1].model.params)


def test_groups_of_like_length_and_smoothed_labels(tmp_path: Path) -> None:
    rows = [row for length in (3, 9, 5) for row in small.rows(32, seed=length, length=length)]
    order = np.random.default_rng(0).permutation(96)
    seen: list[int] = []

    def padded(batch: list[dict]) -> dict[str, np.ndarray]:
        seen.append(len({len(row["input_ids"]) for row in batch}))
        ids = [np.pad(row["input_ids"], (0, 9 - len(row["input_ids"]))) for row in batch]
        return {"input_ids": np.stack(ids), "labels": np.array([row["labels"] for row in batch])}

    options = dict(train_dataset=[rows[n] for n in order], data_collator=padded, group_by_length=True, max_steps=1)
    smooth, plain = (small.trainer(tmp_path, label_smoothing_factor=value, **options) for value in (0.4, 0.0))
    smooth.train()
    plain.train()
    assert np.mean(seen) < 1.7, "rows of one length are mostly together"
    (mixed,), (sharp,) = small.losses(smooth), small.losses(plain)
    assert mixed != sharp and abs(mixed - sharp) < 0.4


def test_adapters_alone_are_trained_and_saved(tmp_path: Path) -> None:
    model = jf.lora(small.bert(), rank=2, targets=["query", "value"], key=jax.random.key(1))
    trainer = small.trainer(tmp_path, model, max_steps=3, save_strategy="steps", save_steps=2)
    trainer.train()
    assert small.same(trainer.model.params, model.params) and not small.same(trainer.model.adapters, model.adapters)
    trainer.save_model()
    names = {path.name for path in tmp_path.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= names and "model.safetensors" not in names
    again = small.trainer(tmp_path, model, max_steps=3, save_strategy="steps", save_steps=2)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert small.same(again.model.adapters, trainer.model.adapters)


@pytest.mark.slow
def test_a_mesh_gives_the_losses_of_one_device(tmp_path: Path) -> None:
    one = small.trainer(tmp_path / "one", max_steps=2, per_device_train_batch_size=8)
    many = small.trainer(tmp_path / "many", max_steps=2, per_device_train_batch_size=2, mesh={"fsdp": 4, "tensor": 2})
    many = Trainer(small.bert(), many.args.replace(rules="FSDP_TENSOR"), train_dataset=small.rows(12))
    one.train()
    many.train()
    np.testing.assert_allclose(small.losses(many), small.losses(one), rtol=1e-5)
    leaf = max(jax.tree.leaves(many.model), key=lambda x: x.size)
    assert len({str(shard.index) for shard in leaf.addressable_shards}) > 1
    out = many.predict(small.rows(5))
    assert out.predictions.shape == (5, 2)


def test_a_plateau_lowers_the_rate_and_averages_are_evaluated(tmp_path: Path) -> None:
    scores = iter([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    trainer = small.trainer(
        tmp_path, lr_scheduler_type="reduce_lr_on_plateau", lr_scheduler_kwargs={"patience": 1, "factor": 0.5},
        eval_strategy="steps", eval_steps=1, eval_dataset=small.rows(4), max_steps=5, metric_for_best_model="score",
        greater_is_better=False, compute_metrics=lambda p: {"score": next(scores)}, ema_decay=0.5,
    )  # fmt: skip
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    np.testing.assert_allclose(rates, [1e-2, 1e-2, 1e-2, 5e-3, 5e-3], rtol=1e-6)


@pytest.mark.slow
def test_streams_train_for_max_steps(tmp_path: Path) -> None:
    trainer = small.trainer(tmp_path, train_dataset=lambda: iter(small.rows(6)), max_steps=4, save_strategy="epoch")
    out = trainer.train()
    assert out.global_step == 4 and trainer.state.epoch == 1.0
    saved = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    assert saved["global_step"] == 2
