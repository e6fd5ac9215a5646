"""Fill-mask: the likeliest words at the places of the mask token."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxformers.pipelines.pipeline import Options, Pipeline
from jaxformers.pipelines.rows import Row
from jaxformers.pipelines.text_rows import text_row
from jaxformers.processing.shares import softmax

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FillMaskOptions(Options):
    """targets: words to choose from, instead of the whole vocabulary."""

    top_k: int | None = None
    targets: str | tuple[str, ...] | list[str] | None = None
    tokenizer_kwargs: Mapping[str, Any] = field(default_factory=dict)


class FillMask(Pipeline):
    """A text with a mask to [{"score", "token", "token_str", "sequence"}]; with several masks a list for each."""

    task = "fill-mask"
    heads = ("MaskedLM",)
    options = FillMaskOptions
    padded = ("logits",)

    def check(self) -> None:
        if self.tokenizer.mask_token_id is None:
            raise ValueError("fill-mask needs a tokenizer with a mask_token; this one has none")

    def prepare(self, item: Any, options: FillMaskOptions) -> list[Row]:
        row = text_row(self, item, **options.tokenizer_kwargs)
        if not (row.inputs["input_ids"] == self.tokenizer.mask_token_id).any():
            raise ValueError(f"the text has no mask token ({self.tokenizer.mask_token}) to fill")
        return [row]

    def target_ids(self, targets: str | tuple[str, ...] | list[str]) -> np.ndarray:
        """Ids of the words to choose from; a word that is no token counts by its first one, with a warning."""
        found = []
        for word in [targets] if isinstance(targets, str) else targets:
            known = self.tokenizer.convert_tokens_to_ids(word)
            if known is None or (known == self.tokenizer.unk_token_id and word != self.tokenizer.unk_token):
                ids = self.tokenizer(word, add_special_tokens=False, truncation=True, max_length=1)["input_ids"]
                if not ids:
                    log.warning("the target %r gives no token and is left out", word)
                    continue
                known = ids[0]
                token = self.tokenizer.convert_ids_to_tokens(known)
                log.warning("the target %r is no token of the vocabulary; %r stands for it", word, token)
            found.append(int(known))
        if not found:
            raise ValueError("targets holds no word that gives a token")
        return np.array(sorted(set(found)))

    def finish(self, item: Any, rows: list[Row], outputs: list[dict[str, Any]], options: FillMaskOptions) -> Any:
        ids = np.asarray(rows[0].inputs["input_ids"])
        places = np.flatnonzero(ids == self.tokenizer.mask_token_id)
        scores = softmax(np.asarray(outputs[0]["logits"], np.float32)[places])
        targets = None if options.targets is None else self.target_ids(options.targets)
        scores = scores if targets is None else scores[:, targets]
        best = min(5 if options.top_k is None else options.top_k, scores.shape[1])
        results = []
        for place, row in zip(places, scores, strict=True):
            order = np.argsort(-row, kind="stable")[:best]
            chosen = [(int(i if targets is None else targets[i]), float(row[i])) for i in order]
            results.append([self.filled(ids, int(place), token, score, len(places) == 1) for token, score in chosen])
        return results[0] if len(results) == 1 else results

    def filled(self, ids: np.ndarray, place: int, token: int, score: float, only: bool) -> dict[str, Any]:
        """The text with one mask filled; other masks stay readable."""
        whole = ids.copy()
        whole[place] = token
        whole = whole[whole != self.tokenizer.pad_token_id]
        text = self.tokenizer.decode(whole, skip_special_tokens=only)
        return {"score": score, "token": token, "token_str": self.tokenizer.decode([token]), "sequence": text}

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """As every pipeline; a list of one text gives that text's result, as it does in transformers."""
        results = super().__call__(inputs, **options)
        return results[0] if isinstance(inputs, list) and len(inputs) == 1 else results
