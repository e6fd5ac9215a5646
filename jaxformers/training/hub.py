"""Pushing a model to the Hub while and after it trains, with a card that says how it was made."""

import logging
from pathlib import Path
from typing import Any

from jaxformers.core.errors import ConfigError
from jaxformers.training.agreement import from_first
from jaxformers.training.card import write_card

log = logging.getLogger("jaxformers")
IGNORED = ["_*", "checkpoint-*"]  # not part of the model; checkpoints have a place of their own


class Hub:
    """One repository, and the uploads on their way to it."""

    def __init__(self) -> None:
        self.repository: str | None = None
        self.uploads: list[Any] = []

    def api(self) -> Any:
        """The Hub's client."""
        from huggingface_hub import HfApi

        return HfApi()

    def create(self, trainer: Any, token: str | None = None, private: bool | None = None) -> str:
        """The repository's id, made on the Hub where it is not yet."""
        if self.repository is None:
            args = trainer.args
            name = args.hub_model_id or Path(args.output_dir).absolute().name
            private = args.hub_private_repo if private is None else private
            made = self.api().create_repo(name, token=token or args.hub_token, private=private, exist_ok=True)
            self.repository = made.repo_id
        return self.repository

    def push(
        self,
        trainer: Any,
        message: str,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **card: Any,
    ) -> Any:
        """Save the model in the output folder with its card, and upload the folder without its checkpoints."""
        trainer.call("on_push_begin")
        trainer.save_model()
        if not trainer.is_world_process_zero():
            return None
        repository = self.create(trainer, token)
        write_card(trainer, repository, **card)
        self.finish()
        return self.upload(trainer, trainer.args.output_dir, message, token, revision, blocking=blocking)

    def push_from_checkpoint(self, trainer: Any, name: str) -> None:
        """Upload the model as it is, and by strategy the checkpoint too; skipped while an upload is on its way."""
        args = trainer.args
        if args.hub_strategy == "end" or (not args.hub_always_push and from_first([int(self.busy())]) == [1]):
            return
        step = (
            f"step {trainer.state.global_step}" if args.save_strategy == "steps" else f"epoch {trainer.state.epoch:g}"
        )
        trainer.call("on_push_begin")
        trainer.save_model()
        checkpoints = {"checkpoint": "last-checkpoint", "all_checkpoints": name}.get(args.hub_strategy)
        if checkpoints and not args.save_only_model:
            trainer.checkpoints.wait()
        if not trainer.is_world_process_zero():
            return
        self.create(trainer)
        message = f"Training in progress, {step}"
        self.uploads.append(self.upload(trainer, args.output_dir, message, blocking=False))
        if checkpoints:
            folder = trainer.run_folder / name
            job = self.upload(trainer, folder, f"{message}, checkpoint", blocking=False, path_in_repo=checkpoints)
            self.uploads.append(job)

    def upload(
        self,
        trainer: Any,
        folder: Any,
        message: str,
        token: str | None = None,
        revision: str | None = None,
        blocking: bool = True,
        path_in_repo: str | None = None,
    ) -> Any:
        """Upload one folder; a future unless `blocking`."""
        where = {"ignore_patterns": IGNORED} if path_in_repo is None else {"path_in_repo": path_in_repo}
        return self.api().upload_folder(
            repo_id=self.repository,
            folder_path=str(folder),
            commit_message=message,
            token=token or trainer.args.hub_token,
            revision=revision or trainer.args.hub_revision,
            run_as_future=not blocking,
            **where,
        )

    def busy(self) -> bool:
        """Whether an upload is still on its way."""
        return any(not job.done() for job in self.uploads)

    def finish(self) -> None:
        """Wait for all uploads; one that failed is said and does not end the run."""
        for job in self.uploads:
            if (error := job.exception()) is not None:
                log.error("an upload to %s failed: %s", self.repository, error)
        self.uploads = []


def check_arguments(args: Any) -> None:
    """Refuse to push without a folder's name to push under. Raises ConfigError."""
    if args.push_to_hub and not (args.hub_model_id or Path(args.output_dir).absolute().name):
        raise ConfigError("push_to_hub needs hub_model_id, or an output_dir with a name")
