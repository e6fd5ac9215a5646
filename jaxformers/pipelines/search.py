"""Semantic search: texts ranked by the cosine of their embedding with a question's."""

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxformers.pipelines.embed import Embedder


@dataclass(frozen=True)
class Hit:
    """One answer: the row of the corpus, its text, and the cosine similarity, -1 to 1."""

    row: int
    text: str
    score: float


@dataclass(frozen=True)
class TextIndex:
    """A corpus and its unit vectors [N,D]."""

    embedder: Embedder
    texts: tuple[str, ...]
    vectors: np.ndarray

    @classmethod
    def build(
        cls, embedder: Embedder, texts: Sequence[str], cache: Path | None = None, batch_size: int = 32
    ) -> "TextIndex":
        """Embed a corpus, or read its vectors from `cache` if that file was made from the same texts and weights."""
        key = (
            "" if cache is None or embedder.folder is None else content_key(embedder.folder, embedder.max_length, texts)
        )
        vectors = read_cache(cache, key, len(texts)) if cache and key else None
        if vectors is None:
            prompt = first_prompt(embedder, "document", "passage", "corpus")
            vectors = unit(embedder.encode(texts, batch_size, prompt_name=prompt))
            if cache and key:
                write_cache(cache, key, vectors)
        return cls(embedder, tuple(texts), vectors)

    def search(self, queries: Sequence[str], top: int = 5) -> list[list[Hit]]:
        """The best `top` texts for every query, best first."""
        scores = unit(self.embedder.encode(queries, prompt_name=first_prompt(self.embedder, "query"))) @ self.vectors.T
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        return [
            [Hit(int(i), self.texts[i], float(row[i])) for i in best] for row, best in zip(scores, order, strict=True)
        ]


def first_prompt(embedder: Embedder, *names: str) -> str | None:
    """The first of these prompts that the checkpoint has: some models want questions and texts marked as such."""
    return next((name for name in names if name in embedder.prompts), None)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length one, so that a dot product is a cosine."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def content_key(folder: Path, max_length: int, texts: Sequence[str]) -> str:
    """A hash of what the vectors depend on: texts, the checkpoint's small files, the weights' size and time."""
    digest = hashlib.sha256(json.dumps([max_length, list(texts)]).encode())
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        stat = file.stat()
        content = file.read_bytes() if stat.st_size < 10_000_000 else f"{stat.st_size} {stat.st_mtime_ns}".encode()
        digest.update(str(file.relative_to(folder)).encode() + b"\0" + content)
    return digest.hexdigest()


def read_cache(file: Path, key: str, rows: int) -> np.ndarray | None:
    """The vectors of an earlier run, or None if there are none for this content."""
    try:
        with np.load(file, allow_pickle=False) as saved:
            if str(saved["key"]) == key and len(saved["vectors"]) == rows:
                return saved["vectors"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # missing, damaged or of another kind: it is made again
    return None


def write_cache(file: Path, key: str, vectors: np.ndarray) -> None:
    """Keep the vectors for the next run; a folder that cannot be written only costs that run its time."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as out:
            np.savez(out, key=np.array(key), vectors=vectors)
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)
