"""Trainer: transformers' interface over the pure train step, loaders, checkpoints and callbacks."""

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from jaxformers.core.errors import ConfigError
from jaxformers.training import assembly, feeding, memory, saving
from jaxformers.training.arguments import TrainingArguments
from jaxformers.training.callbacks import (
    DefaultFlowCallback,
    PrinterCallback,
    ProfilerCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
)
from jaxformers.training.callbacks.handler import CallbackHandler
from jaxformers.training.checkpoints import Checkpoints
from jaxformers.training.data import DataLoader
from jaxformers.training.ema import evaluation_model
from jaxformers.training.evaluation_loop import EvaluationLoop
from jaxformers.training.hub import Hub
from jaxformers.training.loop import Loop
from jaxformers.training.meter import speed
from jaxformers.training.predicting import Evaluate, Outputs, evaluator, writing
from jaxformers.training.preemption import EXIT_STATUS, Preemption
from jaxformers.training.recorded import Recorded
from jaxformers.training.reporters import reporters
from jaxformers.training.summary import SummaryCallback
from jaxformers.training.trainer_state import BestRun, EvalLoopOutput, PredictionOutput, TrainerState, TrainOutput
from jaxformers.training.trials import hyperparameter_search

log = logging.getLogger("jaxformers")


class Trainer(Recorded):
    """Trains, evaluates and predicts with a `Model`; arguments are transformers'.

    model: a Model, or None with `model_init`, which makes one (for a search's trial, where it takes an argument).
    train_dataset, eval_dataset: anything that DataLoader reads, or a DataLoader; a dict of several to evaluate.
    processing_class: a tokenizer or processor, which pads batches and is saved with the model.
    compute_loss_func: `loss(model, batch, key) -> LossOutput` in place of the task's own.
    compute_metrics: `(EvalPrediction) -> {name: value}`. optimizers: (optax transformation, its schedule), both or one
    may be None. preprocess_logits_for_metrics: `(outputs, labels)`, on the devices.
    """

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        data_collator: Callable | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., Any] | None = None,
        compute_loss_func: Callable | None = None,
        compute_metrics: Callable | None = None,
        callbacks: Iterable[TrainerCallback | type[TrainerCallback]] | None = None,
        optimizers: tuple[Any, Callable | None] = (None, None),
        preprocess_logits_for_metrics: Callable | None = None,
    ) -> None:
        if (model is None) == (model_init is None):
            raise ConfigError("Trainer needs either model= or model_init=, and not both")
        self.args = TrainingArguments() if args is None else args
        self.model_init = model_init
        self._model = model_init() if model is None else model
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.processing_class = processing_class
        self.own_collator = data_collator is not None
        self.data_collator = data_collator or feeding.default_collator(self._model.task, processing_class)
        self.compute_metrics, self.compute_loss_func = compute_metrics, compute_loss_func
        self.preprocess_logits_for_metrics = preprocess_logits_for_metrics
        self.given_optimizers = optimizers
        self.optimizer, self.lr_scheduler = optimizers
        self.hub, self.loop, self.trial = Hub(), None, None
        self.watch: Callable | None = None  # a search's: told of each evaluation
        self.prepare()
        assembly.check(self)
        self.callbacks = CallbackHandler([*self.default_callbacks(), *(callbacks or ())])
        self.callbacks.add(PrinterCallback if self.args.disable_tqdm else ProgressCallback)
        self.control = TrainerControl()
        self.state = self.new_state()
        self.call("on_init_end")

    def prepare(self) -> None:
        """Take what follows from the arguments, which a search changes."""
        args = self.args
        self.rows, self.accumulate = args.per_device_train_batch_size, args.gradient_accumulation_steps
        self.run_folder = Path(args.output_dir)
        self.mesh, self.rules = assembly.place_of(args, self._model)
        self._loss = self.compute_loss_func
        self._checkpoints: Checkpoints | None = None
        self.eval_steps: dict[Any, Evaluate] = {}
        if args.log_level != "passive":
            logging.getLogger("jaxformers").setLevel(args.log_level.upper())

    def default_callbacks(self) -> list[TrainerCallback]:
        """The course of the run, its reporters, and what the arguments ask for."""
        args = self.args
        found: list[TrainerCallback] = [DefaultFlowCallback(), *reporters(args.report_to)]
        if args.profile_steps is not None:
            found.append(ProfilerCallback(*args.profile_steps))
        return [*found, SummaryCallback()] if args.run_summary else found

    def new_state(self) -> TrainerState:
        """The state of a run that has not begun."""
        here = self.is_world_process_zero()
        return TrainerState(is_world_process_zero=here, is_local_process_zero=here)

    @property
    def model(self) -> Any:
        """The model as it is now: while it trains, the one on the devices (its average, where one is kept)."""
        return self._model if self.loop is None or self.loop.carry is None else evaluation_model(self.loop.carry)

    @property
    def given_model(self) -> Any:
        """The model that the run began with; only its shapes while the run has let go of its arrays."""
        return self._model

    @property
    def training_model(self) -> Any:
        """The model on the devices, without averages of its weights."""
        return self._model if self.loop is None or self.loop.carry is None else self.loop.carry.model

    @model.setter
    def model(self, model: Any) -> None:
        self._model = model

    @property
    def loss(self) -> Callable:
        """The loss that was given, or that of the model's task."""
        self._loss = self._loss or assembly.make_loss(self.args, self.model)
        return self._loss

    @property
    def has_loss(self) -> bool:
        """Whether there is a loss; base models can predict without."""
        return self._loss is not None or self.model.task is not None

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of this run's folder."""
        if self._checkpoints is None:
            self._checkpoints = self.open_checkpoints(self.run_folder)
        return self._checkpoints

    def open_checkpoints(self, folder: Path) -> Checkpoints:
        """The checkpoints in a folder, under this run's limit."""
        return Checkpoints(folder, keep=self.args.save_total_limit)

    # Training

    def train(
        self,
        resume_from_checkpoint: str | Path | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train to the end of the arguments' steps.

        resume_from_checkpoint: a checkpoint's folder, a run's folder, True for this run's newest good checkpoint, or
        "auto" for that or a new run; the losses that follow are those of the run that was not interrupted. On SIGTERM
        the run is saved, and ends with SystemExit(143). Raises ConfigError, CheckpointError and DataError.
        """
        if self.train_dataset is None:
            raise ConfigError("Trainer has no train_dataset to train on")
        source = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        self.ignore_keys_for_eval, self.trial = ignore_keys_for_eval, trial
        if self.model_init is not None:
            self._model = assembly.make_model(self.model_init, trial)
        with Preemption() as self.preemption, assembly.matmul_precision(self.args):
            once = partial(self.train_once, source)
            out = memory.fitting(once, self) if self.args.auto_find_batch_size else once()
        if self.told_to_end:
            raise SystemExit(EXIT_STATUS)
        return out

    def train_once(self, source: str | Path | bool | None) -> TrainOutput:
        """One attempt, with the rows that are on a device at a time now."""
        self.state, self.told_to_end = self.new_state(), False
        loop = Loop(self)
        self.refresh_state(loop.plan)
        if source:
            saving.resume(self, loop, source)
        self.callbacks.told.update(
            processing_class=self.processing_class,
            optimizer=self.optimizer,
            lr_scheduler=self.lr_scheduler,
            train_dataloader=loop.loader,
        )
        self.loop = loop
        try:
            return loop.run()
        finally:
            loop.loader.close()
            self._model, self.loop = assembly.after(loop, self._model), None

    def refresh_state(self, plan: Any) -> None:
        """Tell the callbacks' state how long the run is and what it is part of."""
        state = self.state
        state.compute_steps(self.args, plan.max_steps)
        state.max_steps, state.num_train_epochs = plan.max_steps, plan.num_train_epochs
        state.train_batch_size = self.rows
        state.is_world_process_zero = state.is_local_process_zero = self.is_world_process_zero()
        if self.trial is not None:
            state.is_hyper_param_search, state.trial_name = True, self.run_folder.name
            state.trial_params = dict(self.trial.params)

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Make the optimiser and its schedule from the arguments, where none were given."""
        optimizer, schedule = self.given_optimizers
        if optimizer is None:
            schedule = schedule or assembly.make_schedule(self.args, num_training_steps)
            optimizer = assembly.make_optimizer(self.args, schedule)
        self.optimizer, self.lr_scheduler = optimizer, schedule

    def get_train_dataloader(self) -> DataLoader:
        """The loader of whole steps, without end."""
        rows = self.rows * assembly.batch_parts(self.mesh, self.rules) * self.accumulate
        return feeding.make_loader(self, self.train_dataset, rows, **feeding.train_options(self, self.train_dataset))

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """The loader of one pass over a dataset, in its order; a name chooses one of `eval_dataset`."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        dataset = self.eval_dataset[dataset] if isinstance(dataset, str) else dataset
        rows = self.args.per_device_eval_batch_size * assembly.batch_parts(self.mesh, self.rules)
        return feeding.make_loader(self, dataset, rows, **feeding.eval_options(self))

    get_test_dataloader = get_eval_dataloader

    # Evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The loss, weighted over all that counts, and the metrics of a dataset; of each, where there are several."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise ConfigError("there is no eval_dataset to evaluate on")
        if isinstance(dataset, dict) and assembly.several(dataset):
            parts = ((f"{metric_key_prefix}_{name}", part) for name, part in dataset.items())
            return {k: v for prefix, part in parts for k, v in self.evaluate(part, ignore_keys, prefix).items()}
        out = self.evaluation_loop(dataset, metric_key_prefix, ignore_keys, loss_only=self.compute_metrics is None)
        self.log(out.metrics)
        self.call("on_evaluate", metrics=out.metrics)
        return out.metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """The model's outputs and the labels of all rows, padded with -100 to equal length, and metrics."""
        out = self.evaluation_loop(test_dataset, metric_key_prefix, ignore_keys)
        self.call("on_predict", metrics=out.metrics)
        return PredictionOutput(out.predictions, out.label_ids, out.metrics)

    def eval_step(self, ignore_keys: list[str] | None, loss_only: bool) -> Evaluate:
        """The jitted step of an evaluation, made once for each kind."""
        kind = (tuple(ignore_keys or ()), loss_only)
        if kind not in self.eval_steps:
            loss, outputs = self.loss if self.has_loss else None, None if loss_only else Outputs(kind[0])
            places = {"mesh": self.mesh, "rules": self.rules}
            made = evaluator(loss, outputs, dtype=self.args.eval_dtype, **places)
            writes = self.args.predict_with_generate and not loss_only
            self.eval_steps[kind] = writing(made, **assembly.writing_options(self.args)) if writes else made
        return self.eval_steps[kind]

    def evaluation_loop(
        self, dataset: Any, prefix: str, ignore_keys: list[str] | None, loss_only: bool = False
    ) -> EvalLoopOutput:
        """Go over a dataset once, and time it."""
        start = time.perf_counter()
        loader = self.get_eval_dataloader(dataset)
        loop = EvaluationLoop(self, loader, prefix, loss_only or self.args.prediction_loss_only, ignore_keys)
        out = loop.run()
        seconds = time.perf_counter() - start
        out.metrics.update(speed(prefix, seconds, samples=out.num_samples, steps=len(loop.rows)))
        return out

    def hyperparameter_search(self, *args: Any, **options: Any) -> BestRun | list[BestRun]:
        """Search on optuna; see `jaxformers.training.trials.hyperparameter_search` for the arguments."""
        return hyperparameter_search(self, *args, **options)
