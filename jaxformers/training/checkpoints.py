"""Checkpoints of a training run: written aside while it goes on, verified when read, the newest good one found."""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxformers.core.errors import CheckpointError
from jaxformers.training.agreement import all_succeed, clear_away, first_line, from_first
from jaxformers.training.checkpoint_folder import CheckpointFolder
from jaxformers.training.description import FILE, Damaged, Description, describe
from jaxformers.training.named import abstract, flat, named_leaves, nested, plain, with_keys, with_leaves
from jaxformers.training.saved_layout import saved_target, to_layout

log = logging.getLogger("jaxformers")


class Checkpoints:
    """The checkpoints of one run, in folders `checkpoint-<step>`.

    folder: on disk or gs://...; shared by all processes. keep: how many to leave, the best and the newest good one
    always among them; None leaves all. asynchronous: write while training goes on; `save` then takes as long as copying
    the state to the host. timeout: seconds after which a write that does not end has failed.
    """

    def __init__(self, folder: Any, *, keep: int | None = None, asynchronous: bool = True, timeout: int = 1200) -> None:
        if keep is not None and keep < 1:
            raise ValueError(f"keep={keep}: a run needs at least one checkpoint to go on from; keep=None leaves all.")
        self.folder = CheckpointFolder(folder)
        self.keep, self.asynchronous = keep, asynchronous
        self.best: int | None = None
        self._writer = writer(timeout, self._before_commit)
        self._writing: int | None = None
        self._shown: Any = None
        self._failure: CheckpointError | None = None
        self._whole: set[int] = set()  # written or read by this object
        self._damaged: set[int] = set()
        self._tidy = True  # before the first write

    def steps(self) -> list[int]:
        """Steps of which there is a finished checkpoint, oldest first; a damaged one shows only when it is read."""
        return from_first(self.folder.steps())

    def path(self, step: int) -> Any:
        """The folder of a step's checkpoint."""
        return self.folder.readable(step)

    def extra(self, step: int) -> dict[str, Any]:
        """The JSON values of a checkpoint, without its arrays. Raises CheckpointError if they are not whole."""
        try:
            return read_description(self.path(step)).extra
        except (Damaged, OSError, ValueError) as error:
            raise CheckpointError(f"{self.path(step)} cannot be read ({first_line(error)}): take another.") from error

    def protect(self, step: int | None) -> None:
        """Name the best checkpoint, which the limit then spares; None names none."""
        self.best = step

    def save(self, state: Any, extra: Mapping[str, Any] | None = None) -> None:
        """Write a state and JSON values under its step; every process must call it, the first one's `extra` counts.

        extra: {"trainer_state": ...} is also written as trainer_state.json, where tools of transformers look.

        A write that fails (a full disk) loses nothing: it is logged, earlier checkpoints stay, the run goes on, and the
        next `wait` or `close` raises if no later one succeeded.
        """
        self.settle()
        leaves = named_leaves(state)
        step = int(jax.device_get(leaves["step"]))
        if step in self._whole:
            return
        arrays = plain(leaves)
        description = describe(step, arrays, extra or {}, self.best)
        self._writing, self._shown = step, description.extra.get("trainer_state")
        try:
            all_succeed(lambda: self._make_room(step), OSError)
            self._writer.save(str(self.folder.path(step)), args=to_write(arrays, description))
        except Exception as error:
            self._failed(first_line(error))
        if not self.asynchronous:
            self.settle()

    def restore(self, like: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Read the newest good checkpoint, or that of `step`, as (state, extra), placed as `like` is.

        like: a state, or shapes of one (`TrainStep.abstract`), which take no memory. Its mesh, rules, number of
        processes and layout (scan) may differ from those of the run that wrote. Raises CheckpointError if none is good,
        or if they are of another model or optimiser.
        """
        self.settle()
        steps = self.steps()
        if step is not None:
            steps = [s for s in steps if s == step]
        problems = []
        for at in reversed(steps):
            try:
                return self._read(at, like)
            except Damaged as damage:
                problems.append(f"checkpoint-{at}: {damage}")
                self._damaged.add(at)
                log.warning("checkpoint-%d is damaged and is skipped: %s", at, damage)
        found = "; ".join(problems) or f"no checkpoint{'' if step is None else f' of step {step}'}"
        advice = "Copy a good one there" if problems else "Name a folder that has one"
        raise CheckpointError(f"{self.folder} holds no checkpoint to go on from ({found}). {advice}, or start anew.")

    def wait(self) -> None:
        """Wait for the write in progress. Raises CheckpointError if the last one failed."""
        self.settle()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def settle(self) -> None:
        """Wait for the write in progress, then remove old ones; a failure is logged; `wait` and `close` raise it."""
        step = self._writing
        if step is None:
            return
        if problem := finish(self._writer):
            self._failed(problem)
            return
        self._writing, self._failure = None, None
        self._whole.add(step)
        self._damaged.discard(step)
        if jax.process_index() == 0:
            self.folder.tidy()
            self.folder.prune(self.keep, best=self.best, damaged=self._damaged)

    def close(self) -> None:
        """Wait, remove what is over the limit and end the writer's threads. Raises as `wait` does."""
        try:
            self.wait()
        finally:
            self._writer.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.close()
        else:  # the error that ends the block is the one to show
            self.settle()
            self._writer.close()

    def _make_room(self, step: int) -> None:
        if jax.process_index() == 0:
            if self._tidy:
                self.folder.tidy()
            self.folder.make_way(step)
        self._tidy = False

    def _before_commit(self) -> None:
        """What the first process adds to the unfinished folder, in the writer's thread."""
        if self._shown is not None:
            text = json.dumps(self._shown, indent=2, sort_keys=True) + "\n"
            (self.folder.unfinished(self._writing) / "trainer_state.json").write_text(text)

    def _failed(self, problem: str) -> None:
        step, self._writing = self._writing, None
        if jax.process_index() == 0:
            self.folder.tidy()
        left = self.folder.steps()
        kept = f"checkpoint-{left[-1]} and earlier ones are whole" if left else "there is no earlier one"
        self._failure = CheckpointError(
            f"checkpoint-{step} could not be written to {self.folder} ({problem}); {kept}. "
            "Make room, or save elsewhere."
        )
        log.error("%s", self._failure)

    def _read(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        place = self.folder.readable(step)
        description = all_succeed(lambda: read_description(place), Damaged)
        leaves = named_leaves(like)
        wanted = abstract(leaves)
        saved = {name: tuple(entry["shape"]) for name, entry in description.arrays.items()}
        target = saved_target(wanted, saved)
        check_target(target, description, step)
        arrays = all_succeed(lambda: read_arrays(place, target), Damaged)
        description.check(arrays)
        self.best = description.best if self.best is None else self.best
        self._whole.add(step)
        arrays = to_layout(arrays, wanted)
        return with_leaves(like, with_keys(arrays, leaves)), description.extra


class Reported(logging.Filter):
    """Hides orbax's pages about a failed write, which ends in one line of ours; at level DEBUG they are shown."""

    def filter(self, record: logging.LogRecord) -> bool:
        ours = record.levelno == logging.ERROR and "orbax" in record.pathname
        return not ours or log.isEnabledFor(logging.DEBUG)


REPORTED = Reported()  # one for all: a logger adds a filter once


def finish(running: Any) -> str | None:
    """Wait until a writer has nothing more to do; what went wrong, if anything did."""
    problems = []
    while len(problems) < 10:  # it may keep more than one error, and tells one at a time
        try:
            running.wait_until_finished()
            break
        except Exception as error:
            problems.append(first_line(error))
    if problems:
        clear_away()
    return problems[0] if problems else None


def writer(timeout: int, before_commit: Callable[[], None]) -> Any:
    """orbax's writer of arrays and JSON, in the background, into a folder that is renamed when all is there."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(REPORTED)
    # Compressing weights and moments saves 8 % of the bytes and takes four times the processors' time from training.
    arrays = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True, use_compression=False)
    parts = ocp.CompositeCheckpointHandler(state=arrays, trainer=ocp.JsonCheckpointHandler(FILE))
    options = ocp.AsyncOptions(timeout_secs=timeout, post_finalization_callback=before_commit)
    return ocp.AsyncCheckpointer(parts, async_options=options)


def to_write(arrays: Mapping[str, jax.Array], description: Description) -> Any:
    """What orbax is asked to write: `state/` and `trainer/checkpoint.json`."""
    from orbax.checkpoint import args

    return args.Composite(state=args.PyTreeSave(nested(arrays)), trainer=args.JsonSave(description.to_json()))


def read_description(place: Any) -> Description:
    """A checkpoint's account of itself."""
    return Description.from_json(json.loads((place / "trainer" / FILE).read_text()))


def read_arrays(place: Any, target: Mapping[str, Any]) -> dict[str, jax.Array]:
    """A checkpoint's arrays, each process reading its devices' parts; needs no other process."""
    import orbax.checkpoint as ocp

    tree = nested(target)
    how = ocp.checkpoint_utils.construct_restore_args(tree)
    reader = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True)
    return flat(reader.restore(place / "state", args=ocp.args.PyTreeRestore(tree, restore_args=how)))


def check_target(target: Mapping[str, Any], description: Description, step: int) -> None:
    """Raise CheckpointError unless shapes and dtypes are those of the state to be restored."""
    for name, leaf in target.items():
        found = description.arrays[name]
        if tuple(found["shape"]) != tuple(leaf.shape) or found["dtype"] != str(leaf.dtype):
            raise CheckpointError(
                f"checkpoint-{step} has {name} as {found['dtype']}{found['shape']}, the state as "
                f"{leaf.dtype}{list(leaf.shape)}: it is of another model, optimiser or dtype."
            )
