"""What pipelines that write have in common: which words go to generate, and rows that are written together."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import jax
import numpy as np

from jaxformers.pipelines.pipeline import Options, Pipeline
from jaxformers.pipelines.rows import Padding

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")


@dataclass(frozen=True)
class WritingOptions(Options):
    """generate_kwargs: what goes to `model.generate`; any keyword that is no option of the task is added to it."""

    generate_kwargs: Mapping[str, Any] = field(default_factory=dict)
    stop_sequence: str | list[str] | None = None


class WritingPipeline(Pipeline):
    """A pipeline whose model generates.

    usual: what generation does where neither the call nor the checkpoint's generation_config.json says.
    """

    options = WritingOptions
    outputs = ("sequences",)
    usual: ClassVar[Mapping[str, Any]] = {}

    def read_options(self, base: Any, given: Mapping[str, Any]) -> Any:
        """Options of the task by name; the rest goes to generate, which refuses what it does not know."""
        known = set(type(base).__dataclass_fields__)
        rest = {k: v for k, v in given.items() if k not in known}
        merged = {**base.generate_kwargs, **rest, **(given.get("generate_kwargs") or {})}
        own = {k: v for k, v in given.items() if k in known}
        return super().read_options(base, {**own, "generate_kwargs": merged})

    @property
    def padding(self) -> Padding:
        """Prompts end where writing begins, and generate finds its own buckets."""
        values = {k: v for k, v in super().padding.values.items() if k != "token_type_ids"}
        return replace(super().padding, values=values, side="left", bucketed=False)

    def generate_options(self, options: Any) -> dict[str, Any]:
        """Keywords for generate: the call's, and the task's usual ones where neither call nor checkpoint says more."""
        chosen = dict(options.generate_kwargs)
        if options.stop_sequence is not None:
            one = isinstance(options.stop_sequence, str)
            chosen["stop_strings"] = [options.stop_sequence] if one else list(options.stop_sequence)
        configs = [c for c in (self.model.generation_config, chosen.get("generation_config")) if c is not None]

        def said(name: str) -> Any:
            return chosen.get(name, next((v for c in configs[::-1] if (v := getattr(c, name, None)) is not None), None))

        usual = {"pad_token_id": getattr(self.tokenizer, "pad_token_id", None), **self.usual}
        usual = {k: v for k, v in usual.items() if v is not None and said(k) is None}
        if said("max_length") is not None:
            usual.pop("max_new_tokens", None)
        if not (usual.get("do_sample") or said("do_sample")):
            usual = {k: v for k, v in usual.items() if k not in SAMPLING}
        chosen = {**usual, **chosen}
        if (chosen.get("do_sample") or said("do_sample")) and chosen.get("key") is None:
            chosen["key"] = jax.random.key(secrets.randbits(32))  # pass key= for a result that can be repeated
        if said("stop_strings") is not None:
            chosen.setdefault("tokenizer", self.tokenizer)
        return chosen

    def batch_options(self, options: Any, number: int) -> Any:
        """A key that the caller gave draws anew for every batch."""
        key = options.generate_kwargs.get("key")
        if key is None:
            return options
        own = {**options.generate_kwargs, "key": jax.random.fold_in(key, number)}
        return replace(options, generate_kwargs=own)

    def forward(self, batch: dict[str, Any], options: Any) -> Mapping[str, Any]:
        """New tokens of every row, [B,returns,N]."""
        written = self.model.generate(**batch, **self.generate_options(options))
        tokens = np.asarray(written if isinstance(written, (jax.Array, np.ndarray)) else written.sequences)
        rows = len(next(iter(batch.values())))
        tokens = tokens.reshape(rows, len(tokens) // rows, -1)
        return {"sequences": tokens[:, :, self.prompt_length(batch) :]}

    def prompt_length(self, batch: Mapping[str, Any]) -> int:
        """How many tokens of what generate returns are the prompt's."""
        return batch["input_ids"].shape[1] if "input_ids" in batch else 0


def is_chat(item: Any) -> bool:
    """Whether this is one conversation."""
    return isinstance(item, (list, tuple)) and len(item) > 0 and isinstance(item[0], Mapping) and "role" in item[0]


def prefilled(chat: Any, said: bool | None) -> bool:
    """Whether the last message is to be continued, as one of the assistant's is unless the caller said otherwise."""
    return chat[-1]["role"] == "assistant" if said is None else said


def without_padding(tokens: np.ndarray, pad: int | None, end: Any) -> list[int]:
    """A row's tokens without what fills it up after its end."""
    tokens = np.asarray(tokens)
    ends = [end] if isinstance(end, int) else list(end or ())
    stops = np.flatnonzero(np.isin(tokens, ends))
    if len(stops):
        return [int(t) for t in tokens[: stops[0] + 1]]
    real = np.flatnonzero(tokens != pad) if pad is not None else np.arange(len(tokens))
    return [int(t) for t in tokens[: real[-1] + 1]] if len(real) else []
