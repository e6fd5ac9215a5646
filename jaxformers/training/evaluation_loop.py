"""One pass over a dataset without training: the loss by its weights, all rows' predictions and labels, and metrics."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from jaxformers.training.predicting import is_label
from jaxformers.training.trainer_state import EvalLoopOutput, EvalPrediction, plain

MAIN_INPUTS = ("input_ids", "pixel_values", "input_features", "input_values", "inputs_embeds")
PADDING = -100  # what fills predictions and labels of unequal length, as in transformers


class Gathered:
    """Arrays of many batches, brought to the host a batch later than they are made, so that nothing waits for them.

    every: batches that stay on the devices together; None for one.
    """

    def __init__(self, every: int | None) -> None:
        self.every = every or 1
        self.devices: list[tuple[Any, int]] = []
        self.host: list[Any] = []

    def add(self, tree: Any, rows: int) -> None:
        """Add a batch's arrays, of which the first rows are real."""
        whole = jax.tree.map(everywhere, tree)
        if len(self.devices) >= self.every:
            self.fetch()
        for leaf in jax.tree.leaves(whole):
            if isinstance(leaf, jax.Array):
                leaf.copy_to_host_async()
        self.devices.append((whole, rows))

    def fetch(self) -> None:
        """Bring what is on the devices to the host, without the rows that fill."""
        for tree, rows in self.devices:
            self.host.append(jax.tree.map(lambda x: np.asarray(x)[:rows], tree))
        self.devices = []

    def whole(self, concatenate: bool = True) -> Any:
        """All batches as one, or as a list; None when there were none."""
        self.fetch()
        if not self.host or not concatenate:
            return self.host or None
        return jax.tree.map(lambda *parts: joined(parts), *self.host)


def everywhere(x: Any) -> Any:
    """An array whose rows other processes hold in part, as a whole."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        from jax.experimental.multihost_utils import process_allgather

        return process_allgather(x, tiled=True)
    return x


def joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Arrays one after another, the second axis padded with -100 to the longest."""
    parts = [np.atleast_1d(part) for part in parts]
    if parts[0].ndim < 2 or len({part.shape[1] for part in parts}) == 1:
        return np.concatenate(parts)
    longest = max(part.shape[1] for part in parts)
    widths = [((0, 0), (0, longest - part.shape[1]), *[(0, 0)] * (part.ndim - 2)) for part in parts]
    filled = [np.pad(part, width, constant_values=PADDING) for part, width in zip(parts, widths, strict=True)]
    return np.concatenate(filled)


class EvaluationLoop:
    """`EvaluationLoop(trainer, loader, ...).run()`; rows that fill the last batch count in nothing."""

    def __init__(self, trainer: Any, loader: Any, prefix: str, loss_only: bool, ignore_keys: list[str] | None) -> None:
        self.trainer, self.args, self.loader, self.prefix = trainer, trainer.args, loader, prefix
        self.loss_only = loss_only
        self.evaluate = trainer.eval_step(ignore_keys, loss_only)
        every = self.args.eval_accumulation_steps
        self.predictions, self.labels, self.inputs = Gathered(every), Gathered(every), Gathered(every)
        self.sums: list[Any] = []
        self.rows: list[int] = []
        self.metrics: dict[str, float] = {}

    def run(self) -> EvalLoopOutput:
        """Go over the data once."""
        trainer = self.trainer
        trainer.callbacks.told["eval_dataloader"] = self.loader
        model = trainer.model
        self.loader.reset()
        for delivered in self.loader:
            rows = self.loader.state()["row"] - sum(self.rows)
            self.rows.append(rows)
            self.take(*self.evaluate(model, delivered.batch), delivered.batch, rows)
            trainer.call("on_prediction_step")
        return self.result()

    def take(self, sums: Any, outputs: Any, batch: dict[str, Any], rows: int) -> None:
        """Keep what a batch gave."""
        if sums is not None:
            self.sums.append(sums)
        if self.loss_only:
            return
        labels = labels_of(batch, self.args.label_names)
        if self.trainer.preprocess_logits_for_metrics is not None:
            outputs = self.trainer.preprocess_logits_for_metrics(outputs, labels)
        inputs = main_input(batch) if "inputs" in self.args.include_for_metrics else None
        if self.args.batch_eval_metrics and self.trainer.compute_metrics is not None:
            return self.measure_batch(outputs, labels, inputs, rows)
        for gathered, value in ((self.predictions, outputs), (self.labels, labels), (self.inputs, inputs)):
            if value is not None:
                gathered.add(value, rows)

    def measure_batch(self, outputs: Any, labels: Any, inputs: Any, rows: int) -> None:
        """Let compute_metrics see one batch; the last one asks it for its result."""
        last = len(self.rows) == self.loader.batches_per_epoch
        found = self.trainer.compute_metrics(
            EvalPrediction(*(cut(value, rows) for value in (outputs, labels, inputs))), compute_result=last
        )
        self.metrics = found or self.metrics

    def result(self) -> EvalLoopOutput:
        """Predictions, labels and metrics of all rows."""
        together = self.args.eval_do_concat_batches
        predictions, labels, inputs = (g.whole(together) for g in (self.predictions, self.labels, self.inputs))
        measured = dict(self.metrics)
        losses = self.losses(measured)
        if self.trainer.compute_metrics is not None and predictions is not None and labels is not None:
            asked = {"inputs": inputs, "losses": losses if "loss" in self.args.include_for_metrics else None}
            measured = {**plain(self.trainer.compute_metrics(EvalPrediction(predictions, labels, **asked))), **measured}
        start = f"{self.prefix}_"
        named = {name if name.startswith(start) else start + name: value for name, value in measured.items()}
        return EvalLoopOutput(predictions, labels, named, sum(self.rows))

    def losses(self, measured: dict[str, float]) -> np.ndarray | None:
        """Add the mean loss, and the means of what else the loss counts; returns each row's batch's loss."""
        if not self.sums:
            return None
        fetched = jax.device_get(self.sums)
        totals = np.array([one.total for one in fetched], np.float64)
        weights = np.array([one.weight for one in fetched], np.float64)
        finite = np.isfinite(totals)
        used = finite if self.args.logging_nan_inf_filter and finite.any() else np.ones_like(finite)
        if (weight := weights[used].sum()) > 0:
            measured["loss"] = float(totals[used].sum() / weight)
            for name in fetched[0].metrics:
                measured[name] = float(np.sum([one.metrics[name] for one in fetched], where=used) / weight)
        return np.repeat(totals / np.where(weights > 0, weights, 1), self.rows)


def cut(tree: Any, rows: int) -> Any:
    """The real rows, on the host."""
    return jax.tree.map(lambda x: np.asarray(everywhere(x))[:rows], tree)


def labels_of(batch: dict[str, Any], names: list[str] | None) -> Any:
    """The labels of a batch: an array, a tuple of several, or None."""
    found = tuple(
        batch[name] for name in (names or sorted(batch, reverse=True)) if name in batch and (names or is_label(name))
    )
    return found[0] if len(found) == 1 else found or None


def main_input(batch: dict[str, Any]) -> Any:
    """What the model reads first of all."""
    return next((batch[name] for name in MAIN_INPUTS if name in batch), None)
