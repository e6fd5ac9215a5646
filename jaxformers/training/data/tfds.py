"""TensorFlow Datasets without TensorFlow: array_record files, read by number."""

from pathlib import Path
from typing import Any

from jaxformers.core.errors import DataError
from jaxformers.core.extras import require

PURPOSE = "reading TensorFlow Datasets"


def tfds_source(name: str, split: str = "train", *, data_dir: str | Path | None = None, **options: Any) -> Any:
    """A data set of tfds by name, or the folder of a built one, as rows by number; `options` are tfds.data_source's.

    It must be in array_record files (`file_format="array_record"`), since tfrecord needs TensorFlow. Raises DataError
    for a split that it has not, or files of another format.
    """
    tfds = tensorflow_datasets()
    folder = Path(name).expanduser()
    if folder.is_dir():
        builder = tfds.builder_from_directory(str(folder))
        check(builder.info, split)
        return builder.as_data_source(split=split, **options)
    return tfds.data_source(name, split=split, data_dir=None if data_dir is None else str(data_dir), **options)


def tensorflow_datasets() -> Any:
    """The package, with what it forgets to ask for. Raises MissingExtra without the extra `data`."""
    for package in ("importlib_resources", "array_record"):  # tfds imports them without declaring that it does
        require(package, extra="data", purpose=PURPOSE)
    return require("tensorflow_datasets", extra="data", purpose=PURPOSE)


def check(info: Any, split: str) -> None:
    """Raise DataError unless the data set can be read without TensorFlow and has the split."""
    form = getattr(info.file_format, "value", info.file_format)
    if form != "array_record":
        raise DataError(
            f"{info.full_name} is in {form} files, which need TensorFlow: build it with file_format='array_record'"
        )
    base = split.partition("[")[0]
    if base not in info.splits and base != "all":
        raise DataError(f"{info.full_name} has no split {base!r}; it has {sorted(info.splits)}")
