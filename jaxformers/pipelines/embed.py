"""Sentence embeddings: texts in, one vector each out, as sentence-transformers defines them for a checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core.config import read_optional
from jaxformers.core.errors import CheckpointError
from jaxformers.hub.auto import AutoModel
from jaxformers.hub.auto_tokenizer import AutoTokenizer
from jaxformers.hub.download import resolve
from jaxformers.hub.model import Model
from jaxformers.pipelines.buckets import bucket
from jaxformers.pipelines.pooling import Stages, read_stages
from jaxformers.pipelines.progress import progress
from jaxformers.pipelines.rows import SHORTEST
from jaxformers.processing.tokenizer import Tokenizer

UNLIMITED = 8192  # tokens, where no file of the checkpoint says less


class Embedder:
    """A text encoder with its tokenizer and pooling. `encode` is all most callers need."""

    def __init__(
        self, model: Model, tokenizer: Tokenizer, stages: Stages = Stages(), max_length: int = 512, lower: bool = False
    ) -> None:
        self.model, self.tokenizer, self.stages = model, tokenizer, stages
        self.max_length, self.lower = max_length, lower
        self.folder: Path | None = None
        self.prompts: dict[str, str] = {}
        self.default_prompt: str | None = None

    @classmethod
    def from_pretrained(cls, source: str | Path, max_length: int | None = None, **options: Any) -> "Embedder":
        """Load a checkpoint folder or hub name; `options` go to AutoModel.from_pretrained.

        Reads modules.json, the pooling folder, sentence_bert_config.json and the prompts when they are there.
        """
        folder = resolve(source)
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder} is a file; expected the checkpoint's folder, for its tokenizer and pooling"
            )
        model = AutoModel.from_pretrained(folder, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        sentence = read_optional(folder / "sentence_bert_config.json")
        length = longest_input(model, tokenizer, sentence.get("max_seq_length"), max_length)
        found = cls(model, tokenizer, read_stages(folder), length, bool(sentence.get("do_lower_case")))
        extra = read_optional(folder / "config_sentence_transformers.json")
        found.folder = folder
        found.prompts, found.default_prompt = extra.get("prompts") or {}, extra.get("default_prompt_name")
        return found

    def encode(
        self,
        texts: Sequence[str],
        batch_size: int = 32,
        show_progress: bool = True,
        prompt_name: str | None = None,
    ) -> np.ndarray:
        """One float32 row per text, [N,D], in the order given.

        Raises ValueError naming every text that is not a string. `prompt_name` picks one of the checkpoint's prompts.
        """
        if isinstance(texts, str):
            raise ValueError("texts is one string; expected a list of them: encode([text])")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected 1 or more")
        tokens = self.tokens(texts, self.prompt(prompt_name))
        # Long texts first: neighbours have similar lengths, so little is padded, and the largest batch fails at once.
        order = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        out: list[tuple[list[int], jax.Array]] = []
        for rows in progress(batches, show_progress and None, "embedding"):
            ids, mask = self.pad([tokens[i] for i in rows], batch_size)
            out.append((rows, embed(self.model, self.stages, ids, mask)))
            if len(out) > 1:
                out[-2][1].block_until_ready()  # one batch ahead keeps the device busy and the bar honest
        if not out:
            width = jax.eval_shape(embed, self.model, self.stages, *self.pad([[0]], 1)).shape[-1]
            return np.zeros((0, width), np.float32)
        vectors = np.zeros((len(tokens), out[0][1].shape[-1]), np.float32)
        for rows, batch in out:
            vectors[rows] = np.asarray(batch)[: len(rows)]
        return vectors

    def prompt(self, name: str | None) -> str:
        """The text to put before every input."""
        name = name or self.default_prompt
        if name is None:
            return ""
        if name not in self.prompts:
            raise ValueError(f"prompt_name is {name!r}; this checkpoint has {sorted(self.prompts) or 'no prompts'}")
        if self.prompts[name] and not self.stages.prompted:
            raise ValueError("this checkpoint pools without the prompt's tokens, which is not supported")
        return self.prompts[name]

    def tokens(self, texts: Sequence[str], prompt: str = "") -> list[list[int]]:
        """Token ids of every text, cut to the longest input the model takes."""
        wrong = [f"text {i} is {type(t).__name__} {t!r:.40}" for i, t in enumerate(texts) if not isinstance(t, str)]
        if wrong:
            more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise ValueError(f"{'; '.join(wrong[:5])}{more}: expected str")
        if not len(texts):
            return []
        clean = [(prompt + text).strip() for text in texts]
        clean = [text.lower() for text in clean] if self.lower else clean
        ids = self.tokenizer(clean, truncation=True, max_length=self.max_length, padding=False)["input_ids"]
        empty = [i for i, row in enumerate(ids) if not len(row)]
        if empty:
            raise ValueError(f"text {empty[0]} gives no tokens ({len(empty)} such): leave empty texts out")
        return [list(row) for row in ids]

    def pad(self, rows: Sequence[Sequence[int]], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and mask [B,T], both sides rounded up to one of few sizes, so that few programs are compiled."""
        length = bucket(max(map(len, rows)), SHORTEST, self.max_length)
        count = bucket(len(rows), 1, batch_size)
        ids = np.full((count, length), self.tokenizer.pad_token_id or 0, np.int32)
        mask = np.zeros((count, length), np.int32)
        mask[:, 0] = 1  # rows that only fill the batch see one token, so nothing divides by zero
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        return ids, mask


@jax.jit
def embed(model: Model, stages: Stages, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """The whole computation as one pure function: ids and mask [B,T] to vectors [B,D]."""
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return stages(hidden, jnp.asarray(mask))


def longest_input(model: Model, tokenizer: Tokenizer, usual: int | None, asked: int | None) -> int:
    """How many tokens a text may have. Raises ValueError if more are asked for than the model has positions."""
    positions = getattr(model.config, "max_position_embeddings", None) or UNLIMITED
    limit = min(int(tokenizer.model_max_length), positions, UNLIMITED)
    if asked is None:
        return min(usual or limit, limit)
    if not 1 <= asked <= limit:
        raise ValueError(f"max_length is {asked}; this checkpoint takes 1 to {limit} tokens")
    return asked
