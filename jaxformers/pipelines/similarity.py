"""Sentence similarity: how close texts are to one, as the Hub's widget of that name answers."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxformers.pipelines.pipeline import Options, Pipeline
from jaxformers.pipelines.pooling import Stages, read_stages
from jaxformers.pipelines.rows import Row
from jaxformers.pipelines.search import unit
from jaxformers.pipelines.text_rows import text_row


class SentenceSimilarity(Pipeline):
    """{"source_sentence", "sentences"} to a list of cosines, pooled as the checkpoint's own files say."""

    task = "sentence-similarity"
    heads = (None,)
    options = Options
    outputs = ("last_hidden_state",)
    padded = ("last_hidden_state",)

    def check(self) -> None:
        folder = self.source if self.source is not None and self.source.is_dir() else None
        self.stages = Stages() if folder is None else read_stages(folder)

    def prepare(self, item: Any, options: Options) -> list[Row]:
        wanted = {"source_sentence", "sentences"}
        if not isinstance(item, Mapping) or set(item) != wanted or not isinstance(item["sentences"], (list, tuple)):
            raise ValueError(f'expected {{"source_sentence": text, "sentences": [text, ...]}}, found {item!r:.80}')
        return [text_row(self, text, truncation=True) for text in (item["source_sentence"], *item["sentences"])]

    def finish(self, item: Any, rows: list[Row], outputs: list[dict[str, Any]], options: Options) -> list[float]:
        states = [jnp.asarray(o["last_hidden_state"])[None] for o in outputs]
        vectors = [self.stages(x, jnp.ones(x.shape[:2], jnp.int32))[0] for x in states]
        first, *others = unit(np.asarray(vectors, np.float32))
        return [float(first @ other) for other in others]
