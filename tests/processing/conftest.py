"""The zoo of trained tokenizers, each built once and loaded by both libraries."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from transformers import AutoTokenizer
from transformers.utils import logging

from jaxformers.processing import Tokenizer
from tests.processing.zoo import ZOO, write

logging.set_verbosity_error()


class Pair(NamedTuple):
    """The same folder in both libraries."""

    folder: Path
    ours: Tokenizer
    theirs: Any


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a name in the zoo to its folder, written once."""
    root = tmp_path_factory.mktemp("zoo")
    return cache(lambda name: write(root / name, ZOO[name]))


@pytest.fixture(scope="session")
def pair(folder: Callable[[str], Path]) -> Callable[[str], Pair]:
    """A function from a name in the zoo to its tokenizer in both libraries; tests must not change these."""

    @cache
    def load(name: str) -> Pair:
        path = folder(name)
        return Pair(path, Tokenizer.from_pretrained(path), AutoTokenizer.from_pretrained(path))

    return load
