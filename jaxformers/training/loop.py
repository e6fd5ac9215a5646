"""The loop of a training run: steps, and between them what callbacks ask for: logs, evaluations, checkpoints."""

import logging
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxformers.training import assembly, saving
from jaxformers.training.flops import model_flops, peak_flops, train_flops
from jaxformers.training.meter import Meter, speed
from jaxformers.training.optimizers import set_learning_rate
from jaxformers.training.plateau import ReduceOnPlateau
from jaxformers.training.search import Pruned
from jaxformers.training.step import NonFinite
from jaxformers.training.step_plan import plan_steps
from jaxformers.training.trainable import trained_share
from jaxformers.training.trainer_state import TrainOutput

log = logging.getLogger("jaxformers")
AHEAD = 2  # steps that may be on their way to the devices; more would only hold memory


class Item(NamedTuple):
    """A batch on the devices, the loader's position after it, its rows, and its tokens on this process."""

    batch: dict[str, jax.Array]
    position: dict[str, Any]
    rows: int
    tokens: int
    real_tokens: int


class Loop:
    """One call of `Trainer.train`. `carry` is the state on the devices, `trainer.state` what callbacks see."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.args = trainer, trainer.args
        self.loader = trainer.get_train_dataloader()
        self.plan = plan_steps(self.args, self.loader, trainer.accumulate)
        self.step = assembly.make_step(trainer, self.plan.max_steps)
        self.model = assembly.to_train(self.args, trainer.model)
        self.carry: Any = None
        self.position: dict[str, Any] = self.loader.state()
        self.held: Item | None = None
        self.batches: Iterator[Any] = iter(())
        self.waiting: list[dict[str, jax.Array]] = []  # metrics of steps that were not logged yet, on the devices
        self.loss_sum, self.samples, self.first_step, self.last_logged = 0.0, 0, 0, 0
        self.saved: list[int] = []  # steps
        self.flops: dict[Any, int] = {}  # of a step, by the shapes of its batch
        self.started = time.perf_counter()

    @property
    def state(self) -> Any:
        """What callbacks see of the run."""
        return self.trainer.state

    # The course

    def run(self) -> TrainOutput:
        """Train until the steps are done, or a callback stops it."""
        self.begin()
        trainer = self.trainer
        trainer.call("on_train_begin")
        if self.args.eval_on_start:
            self.evaluate()
        while self.state.global_step < self.plan.max_steps and not trainer.control.should_training_stop:
            self.epoch()
        return self.finish()

    def begin(self) -> None:
        """Start the clocks; the state is in `carry`, where a resumed run put it, or is made."""
        if self.carry is None:
            self.carry = self.step.init(self.model, jax.random.key(self.args.seed))
            self.release()
        self.trained = trained_share(self.carry.model, self.args.trainable)
        self.first_step = self.last_logged = self.state.global_step
        self.batches = iter(self.loader)
        self.started = time.perf_counter()
        peak = peak_flops()
        self.meter = Meter(None if peak is None else peak * jax.device_count())

    def release(self) -> None:
        """Let go of the parameters that the run began with; a run that may begin again keeps them."""
        self.model = assembly.shapes_of(self.model)
        if not self.args.auto_find_batch_size:
            self.trainer.model = assembly.shapes_of(self.trainer.given_model)

    def epoch(self) -> None:
        """One pass over the data, or what is left of it."""
        trainer = self.trainer
        trainer.call("on_epoch_begin")
        for item in self.items():
            self.take(item)
            if trainer.control.should_epoch_stop or trainer.control.should_training_stop:
                break
        trainer.call("on_epoch_end")
        self.act()
        if trainer.control.should_epoch_stop and not trainer.control.should_training_stop:
            self.skip_epoch()

    def items(self) -> Iterator[Item]:
        """The batches of the epoch that begins: to its known end, or to the first batch of the next one."""
        each, number = self.plan.steps_per_epoch, None
        while True:
            item = self.held or self.fetch()
            self.held = None
            if number is not None and item.position["epoch"] != number:
                self.held = item
                return
            number = item.position["epoch"]
            yield item
            if each is not None and item.position["batch"] >= each:
                return

    def fetch(self) -> Item:
        """The next batch. Waiting for it counts as lost when the devices had nothing left to do."""
        before, begun = self.position, time.perf_counter()
        delivered = next(self.batches)
        if not self.waiting or self.waiting[-1]["loss"].is_ready():
            self.meter.lose("data", time.perf_counter() - begun)
        position = self.loader.state()
        rows = position["row"] - (before["row"] if before["epoch"] == position["epoch"] else 0)
        return Item(delivered.batch, position, rows, delivered.tokens, delivered.real_tokens)

    def skip_epoch(self) -> None:
        """Leave the rest of an epoch that a callback ended."""
        self.loader.restore({**self.position, "epoch": self.position["epoch"] + 1, "batch": 0, "row": 0, "rows": None})
        self.batches, self.held = iter(self.loader), None

    # A step

    def take(self, item: Item) -> None:
        """One update, with its events."""
        trainer, state = self.trainer, self.state
        trainer.call("on_step_begin")
        self.update(item)
        self.position = item.position
        for _ in range(self.accumulated(item) - 1):
            trainer.call("on_substep_end")
        trainer.call("on_pre_optimizer_step")
        trainer.call("on_optimizer_step")
        state.global_step += 1
        each = self.plan.steps_per_epoch
        inside = state.global_step if each is None else item.position["batch"]
        state.epoch = self.plan.epoch(0 if each is None else item.position["epoch"], inside)
        trainer.call("on_step_end")
        if trainer.preemption.reached(state.global_step) and self.args.enable_jit_checkpoint:
            trainer.told_to_end = trainer.control.should_save = trainer.control.should_training_stop = True
        self.act()

    def update(self, item: Item) -> None:
        """Send the step to the devices, a few ahead of them at most, and count its work."""
        shapes = tuple((name, x.shape) for name, x in sorted(item.batch.items()))
        new, begun = shapes not in self.flops, time.perf_counter()
        with jax.profiler.StepTraceAnnotation("train", step_num=self.state.global_step):
            try:
                self.carry, metrics = self.step(self.carry, item.batch)
            except NonFinite as error:
                self.carry = error.state
                raise
        if new:
            self.meter.lose("compilation", time.perf_counter() - begun)
            self.flops[shapes] = self.count(item.batch)
        for name in ("loss", "grad_norm"):
            metrics[name].copy_to_host_async()
        self.waiting.append(metrics)
        if len(self.waiting) > AHEAD:
            jax.block_until_ready(self.waiting[-1 - AHEAD]["loss"])
        self.tally(item, self.flops[shapes])

    def tally(self, item: Item, flops: int) -> None:
        """Count rows, tokens and FLOPs of a step; tokens of other processes are taken to be as many."""
        processes = jax.process_count()
        counted = {"all": item.tokens, "non_padding": item.real_tokens}.get(self.args.include_num_input_tokens_seen, 0)
        self.state.num_input_tokens_seen += counted * processes
        self.state.total_flos += flops
        self.samples += item.rows
        self.meter.count(samples=item.rows, tokens=item.real_tokens * processes, flops=flops)

    def count(self, batch: dict[str, jax.Array]) -> int:
        """FLOPs of a step over a batch of these shapes."""
        if not self.args.log_throughput:
            return 0
        loss = self.trainer.loss
        try:
            forward = model_flops(self.carry.model, batch, lambda model, rows: loss(model, rows, None).total)
        except Exception as error:  # whatever it is, a run does not end because it cannot be counted
            log.warning("the FLOPs of a step cannot be counted, and there is no MFU: %s", error)
            return 0
        return train_flops(forward, self.trained)

    def accumulated(self, item: Item) -> int:
        """How many batches of rows this update took; the last of an epoch may be fewer."""
        if self.loader.batch_size is None:
            return self.plan.accumulate
        return max(1, math.ceil(item.rows / (self.loader.batch_size // self.plan.accumulate)))

    # What callbacks ask for

    def act(self) -> None:
        """Log, evaluate and save, as the control says."""
        trainer = self.trainer
        if trainer.control.should_log and self.state.global_step > self.last_logged:
            self.log()
        if trainer.control.should_evaluate:
            with self.meter.losing("evaluation"):
                better = saving.note_best(trainer, self.evaluate())
            if self.args.save_strategy == "best":
                trainer.control.should_save = better
        if trainer.control.should_save:
            with self.meter.losing("checkpoint"):
                saving.save_checkpoint(trainer, self)
            trainer.call("on_save")

    def evaluate(self) -> dict[str, float]:
        """Evaluate; a search may end the run there, and a schedule that watches a metric may lower the rate."""
        trainer = self.trainer
        metrics = trainer.evaluate(ignore_keys=trainer.ignore_keys_for_eval)
        if trainer.watch is not None:
            try:
                trainer.watch(self.state.global_step, metrics)
            except Pruned:
                trainer.call("on_train_end")
                raise
        if isinstance(trainer.lr_scheduler, ReduceOnPlateau) and self.state.global_step:
            rate = trainer.lr_scheduler.update(saving.watched(self.args, metrics))
            self.carry = set_learning_rate(self.carry, rate)
        return metrics

    def log(self) -> None:
        """Fetch what steps have left on the devices, and log its means."""
        logs = self.drain()
        if self.args.log_throughput:
            logs |= self.meter.read()
        self.trainer.log(logs, self.started)

    def drain(self) -> dict[str, float]:
        """The means over the steps since the last log: of the loss and of what else it counts; the last norm."""
        fetched, self.waiting = jax.device_get(self.waiting), []
        self.last_logged = self.state.global_step
        losses = np.array([float(metrics["loss"]) for metrics in fetched])
        if self.args.logging_nan_inf_filter and np.isfinite(losses).any():
            losses = np.where(np.isfinite(losses), losses, losses[np.isfinite(losses)].mean())
        self.loss_sum += float(losses.sum())
        last = fetched[-1]
        logs = {"loss": float(losses.mean()), "grad_norm": float(last["grad_norm"])}
        if "learning_rate" in last:
            logs["learning_rate"] = float(last["learning_rate"])
        else:
            logs["learning_rate"] = assembly.learning_rate(self.trainer.lr_scheduler, self.state.global_step - 1)
        others = last.keys() - {"loss", "grad_norm", "weight", "finite", "learning_rate"}
        logs |= {name: float(np.mean([metrics[name] for metrics in fetched])) for name in sorted(others)}
        skipped = sum(not metrics["finite"] for metrics in fetched)
        return logs | ({"steps_not_finite": skipped} if skipped else {})

    def finish(self) -> TrainOutput:
        """The metrics of the whole run, and its last events."""
        trainer, state = self.trainer, self.state
        self.loader.close()
        if self.waiting:
            self.drain()
        steps = state.global_step - self.first_step
        seconds = time.perf_counter() - self.started
        metrics = speed("train", seconds, samples=self.samples, steps=steps)
        metrics |= {"total_flos": state.total_flos, "train_loss": self.loss_sum / max(steps, 1)}
        if self.args.log_throughput:
            metrics["train_goodput"] = round(self.meter.goodput(), 4)
        trainer.log(metrics)
        saving.finish(trainer, self)
        trainer.call("on_train_end")
        trainer.hub.finish()
        return TrainOutput(state.global_step, metrics["train_loss"], metrics)
