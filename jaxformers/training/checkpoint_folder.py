"""The folder of a run's checkpoints: which there are, which may go, and what a crash left behind."""

import logging
import re
from collections.abc import Set
from typing import Any

NAME = re.compile(r"checkpoint-(\d+)")
# Names that nobody takes for checkpoints: orbax's unfinished ones, and ours that are being removed or replaced.
UNFINISHED = re.compile(r"checkpoint-\d+\.orbax-checkpoint-tmp.*")
DELETED = re.compile(r"checkpoint-\d+\.deleted")
REPLACED = re.compile(r"checkpoint-(\d+)\.replaced")
log = logging.getLogger("jaxformers")


class CheckpointFolder:
    """Paths and names only; what is in a checkpoint is its reader's business. Changes are for the first process."""

    def __init__(self, folder: Any) -> None:
        from etils import epath  # orbax's own: local paths and gs:// alike

        self.root = epath.Path(folder)
        if "://" not in str(folder):
            self.root = epath.Path(self.root.resolve())

    def __str__(self) -> str:
        return str(self.root)

    def path(self, step: int) -> Any:
        """Where the checkpoint of a step is, under transformers' name."""
        return self.root / f"checkpoint-{step}"

    def readable(self, step: int) -> Any:
        """The same, or where it was set aside if a crash came before its successor was whole."""
        path = self.path(step)
        return path if path.exists() else self.root / f"{path.name}.replaced"

    def unfinished(self, step: int) -> Any:
        """Where a checkpoint is being written: beside its place, or in it where folders cannot be renamed."""
        beside = sorted(self.root.glob(f"checkpoint-{step}.orbax-checkpoint-tmp*"))
        return beside[-1] if beside else self.path(step)

    def steps(self) -> list[int]:
        """Steps of finished checkpoints, oldest first."""
        from orbax.checkpoint.utils import is_checkpoint_finalized

        if not self.root.exists():
            return []
        names = [NAME.fullmatch(path.name) or REPLACED.fullmatch(path.name) for path in self.root.iterdir()]
        steps = sorted({int(match[1]) for match in names if match})
        return [step for step in steps if self.readable(step).is_dir() and is_checkpoint_finalized(self.readable(step))]

    def tidy(self) -> None:
        """Make the folder; remove what a crash left half-written or half-deleted, bring back what was set aside.

        For a run that writes: it would take another one's unfinished checkpoint from under it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        for path in list(self.root.iterdir()):
            if match := REPLACED.fullmatch(path.name):
                whole = self.path(int(match[1]))
                path.rmtree() if whole.exists() else path.rename(whole)
            elif UNFINISHED.fullmatch(path.name) or DELETED.fullmatch(path.name):
                path.rmtree()

    def make_way(self, step: int) -> None:
        """Set aside an older checkpoint of the same step, until the new one is whole."""
        from orbax.checkpoint.utils import is_checkpoint_finalized

        path = self.path(step)
        if not path.exists():
            return
        if not is_checkpoint_finalized(path):  # in an object store one is written in its place
            path.rmtree()
            return
        log.warning("%s is there already and will be replaced", path)
        path.rename(self.root / f"checkpoint-{step}.replaced")

    def prune(self, keep: int | None, *, best: int | None, damaged: Set[int]) -> None:
        """Remove the oldest beyond `keep` good ones; never the best, nor what is newer than the newest good one."""
        good = [step for step in self.steps() if step not in damaged]
        if keep is None or not good:
            return
        spared = {*good[-keep:], best}
        for step in self.steps():
            if step not in spared and step < good[-1]:
                self.remove(step)

    def remove(self, step: int) -> None:
        """Delete a checkpoint; from the first moment on nobody takes it for a whole one."""
        path = self.path(step)
        if "://" not in str(self.root):  # in an object store a rename copies
            path = path.rename(self.root / f"checkpoint-{step}.deleted")
        path.rmtree()
