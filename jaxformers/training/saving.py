"""What a Trainer writes: checkpoints with the best among them, models in Hugging Face's format, metrics as JSON."""

import json
import logging
from pathlib import Path
from typing import Any

import jax

from jaxformers.core.errors import CheckpointError, ConfigError
from jaxformers.nn.stack import relayout
from jaxformers.training.data import all_states
from jaxformers.training.plateau import ReduceOnPlateau
from jaxformers.training.trainer_state import TRAINER_STATE_NAME, TrainerState, plain

log = logging.getLogger("jaxformers")
ARGUMENTS_NAME = "training_args.json"
PREFIX = "checkpoint"
AUTO = "auto"  # go on where there is a checkpoint, else begin: what machines that restart a command need


def save_checkpoint(trainer: Any, loop: Any) -> None:
    """Hand the run over to be written: its state, where the data stands, and what callbacks see."""
    args, state = trainer.args, trainer.state
    state.stateful_callbacks = trainer.callbacks.states(trainer.control)
    name = f"{PREFIX}-{state.global_step}"
    if state.best_global_step is not None:
        state.best_model_checkpoint = str(trainer.run_folder / f"{PREFIX}-{state.best_global_step}")
    if args.save_only_model:
        trainer.save_model(trainer.run_folder / name)
        if trainer.is_world_process_zero():
            state.save_to_json(trainer.run_folder / name / TRAINER_STATE_NAME)
            rotate(trainer)
    else:
        extra = {
            "trainer_state": state.to_dict(),
            "data": all_states(loop.position),
            "arguments": plain(args.to_dict()),
        }
        if isinstance(trainer.lr_scheduler, ReduceOnPlateau):
            extra["plateau"] = trainer.lr_scheduler.state()
        loop.saved.append(state.global_step)
        limit(trainer, loop.saved)
        trainer.checkpoints.save(loop.carry, extra)
    if args.push_to_hub:
        trainer.hub.push_from_checkpoint(trainer, name)


def limit(trainer: Any, saved: list[int]) -> None:
    """Spare the best checkpoint, as one of those that `save_total_limit` leaves; the newest stays in any case.

    saved: this run's, of which the last ones may still be on their way.
    """
    best, most = trainer.state.best_global_step, trainer.args.save_total_limit
    trainer.checkpoints.protect(best)
    if most is not None and best is not None:
        newest = sorted({*trainer.checkpoints.steps(), *saved})[-most:]
        trainer.checkpoints.keep = most if best in newest else max(1, most - 1)


def rotate(trainer: Any) -> None:
    """Delete the oldest folders of models beyond `save_total_limit`; the newest and the best stay."""
    import shutil

    limit, state = trainer.args.save_total_limit, trainer.state
    found = sorted(trainer.run_folder.glob(f"{PREFIX}-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    kept = {found[-1].name, f"{PREFIX}-{state.best_global_step}"}
    left = len(found)
    for path in found if limit else ():
        if left > max(limit, len(kept & {p.name for p in found})) and path.name not in kept:
            shutil.rmtree(path)
            left -= 1


def resume(trainer: Any, loop: Any, source: str | Path | bool) -> None:
    """Go on from a checkpoint: the newest good one (True), one that may be there ("auto"), or one in a folder."""
    folder, step = locate(trainer, source)
    if source == AUTO and not trainer.checkpoints.steps():
        return
    like, _ = loop.step.abstract(loop.model, {})
    checkpoints = trainer.checkpoints if folder == trainer.run_folder else trainer.open_checkpoints(folder)
    loop.carry, extra = checkpoints.restore(like, step)
    loop.release()
    trainer.state = TrainerState.from_dict(extra["trainer_state"])
    trainer.refresh_state(loop.plan)
    if "plateau" in extra and isinstance(trainer.lr_scheduler, ReduceOnPlateau):
        trainer.lr_scheduler.restore(extra["plateau"])
    if trainer.args.restore_callback_states_from_checkpoint:
        trainer.callbacks.restore(trainer.state.stateful_callbacks)
    fresh = {**loop.loader.state(), "epoch": int(trainer.state.epoch)}
    loop.loader.restore(fresh if trainer.args.ignore_data_skip else extra["data"])
    loop.position = loop.loader.state()
    log.info("going on from step %d of %s", trainer.state.global_step, folder)


def locate(trainer: Any, source: str | Path | bool) -> tuple[Path, int | None]:
    """The folder of checkpoints and the step that a caller names."""
    if source in (True, AUTO):
        return trainer.run_folder, None
    path = Path(source)
    kind, _, number = path.name.rpartition("-")
    if kind == PREFIX and number.isdigit():
        return path.parent, int(number)
    if not path.is_dir():
        raise CheckpointError(f"{path} is no folder: resume_from_checkpoint takes a checkpoint, a run's folder or True")
    return path, None


def note_best(trainer: Any, metrics: dict[str, float]) -> bool:
    """Whether an evaluation is the best so far; then it is noted."""
    args, state = trainer.args, trainer.state
    if args.metric_for_best_model is None:
        return False
    value, old = watched(args, metrics), state.best_metric
    if value != value or (old is not None and not (value > old if args.greater_is_better else value < old)):
        return False  # NaN is never the best
    state.best_metric = value
    if args.save_strategy != "no":
        state.best_global_step = state.global_step
    return True


def watched(args: Any, metrics: dict[str, float]) -> float:
    """The metric that decides. Raises ConfigError when the evaluation did not give it."""
    name = args.metric_for_best_model
    value = metrics.get(name if name.startswith("eval_") else f"eval_{name}")
    if value is None:
        raise ConfigError(f"metric_for_best_model is {name!r}, and the evaluation gave {', '.join(metrics)}")
    return value


def finish(trainer: Any, loop: Any) -> None:
    """Put the best weights in place where asked for, and wait for what is being written."""
    if trainer.args.load_best_model_at_end:
        load_best(trainer, loop)
    if trainer._checkpoints is not None:
        try:
            trainer.checkpoints.close()
        except CheckpointError as error:
            log.error("the last checkpoint is missing, and the run is over: save the model. %s", error)
        trainer._checkpoints = None


def load_best(trainer: Any, loop: Any) -> None:
    """Put the best checkpoint's weights in place of the last ones."""
    step = trainer.state.best_global_step
    if step is None or step == trainer.state.global_step:
        return
    if not trainer.args.save_only_model:
        loop.carry, _ = trainer.checkpoints.restore(loop.step.abstract(loop.model, {})[0], step)
        return
    best = read_model(loop.carry.model, trainer.run_folder / f"{PREFIX}-{step}")
    loop.carry = loop.carry.replace(model=best, ema=None)


def read_model(like: Any, folder: Path) -> Any:
    """A model, or its adapters, that `write_model` wrote, placed as another one is."""
    if like.adapters is not None:
        from jaxformers.adapters.load import load_adapter

        return load_adapter(like.replace(adapters=None, adapter=None), folder)
    scanned = relayout(like.module, scan=True) is like.module
    read = like.from_pretrained(folder, task=like.task, mesh=like.mesh, rules=like.rules, scan=scanned)
    return like.replace(params=read.params)


def save_model(trainer: Any, folder: Path) -> None:
    """Write the model, its processor and the arguments as transformers lays them out; the first process writes."""
    model = trainer.model
    if trainer._checkpoints is not None:
        # The folder is swapped as a whole, with the checkpoints in it: none may be half-written.
        trainer._checkpoints.settle()
    if trainer.is_world_process_zero() or jax.process_count() > 1:
        write_model(model, folder)
    if not trainer.is_world_process_zero():
        return
    if trainer.processing_class is not None:
        trainer.processing_class.save_pretrained(folder)
    text = json.dumps(plain(trainer.args.to_dict()), indent=2) + "\n"
    (Path(folder) / ARGUMENTS_NAME).write_text(text, encoding="utf-8")


def write_model(model: Any, folder: Path) -> None:
    """A model as safetensors, or its adapters alone where it has some."""
    if model.adapters is not None:
        from jaxformers.adapters.save import save_adapter

        save_adapter(model, folder)
    else:
        model.save_pretrained(folder, progress=False)


def save_metrics(trainer: Any, split: str, metrics: dict[str, Any], combined: bool = True) -> None:
    """Write `{split}_results.json`, and add the metrics to all_results.json."""
    if not trainer.is_world_process_zero():
        return
    folder = Path(trainer.args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{split}_results.json", metrics)
    if combined:
        path = folder / "all_results.json"
        write_json(path, {**(json.loads(path.read_text()) if path.exists() else {}), **metrics})


def write_json(path: Path, values: Any) -> None:
    """Values as transformers lays them out."""
    path.write_text(json.dumps(plain(values), indent=4, sort_keys=True) + "\n", encoding="utf-8")


def save_state(trainer: Any) -> None:
    """Write trainer_state.json into the output folder."""
    if trainer.is_world_process_zero():
        Path(trainer.args.output_dir).mkdir(parents=True, exist_ok=True)
        trainer.state.save_to_json(Path(trainer.args.output_dir) / TRAINER_STATE_NAME)


def print_metrics(trainer: Any, split: str, metrics: dict[str, Any]) -> None:
    """Print metrics under each other, as transformers does."""
    if trainer.is_world_process_zero():
        words = {name: f"{value:.4f}" if isinstance(value, float) else str(value) for name, value in metrics.items()}
        left, right = (max(map(len, part), default=0) for part in (words.keys(), words.values()))
        print(f"***** {split} metrics *****")
        for name in sorted(words):
            print(f"  {name:<{left}} = {words[name]:>{right}}")
