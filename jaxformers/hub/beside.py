"""Heads in files of their own beside a checkpoint's weights: the whole is read as the type that has such a head."""

from pathlib import Path

from jaxformers.core.config import Config, read_json
from jaxformers.hub.checkpoint import Checkpoint, open_file
from jaxformers.models import family_of


def with_head_beside(config: Config, task: str | None, path: Path, tensors: Checkpoint) -> tuple[Config, Checkpoint]:
    """The config and the tensors, with those of a head that lies beside them where this task may have one."""
    head = None if task is None else family_of(config.model_type).tasks.get(task)
    if head is None or head.beside is None:
        return config, tensors
    folder = path if path.is_dir() else path.parent
    files = {(folder / name).stem: read_json(folder / name) for name in head.beside.configs if (folder / name).exists()}
    config = head.beside.config(config, files)
    sources = dict(tensors.sources)
    for name in head.beside.weights:
        if (folder / name).exists():
            file = open_file(folder / name)
            sources = dict.fromkeys(file, file) | sources
    return config, Checkpoint(sources)
