"""Language modelling: labels from the tokens themselves, with words hidden at random or not."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxformers.training.data.collate.padding import IGNORED, DataCollatorWithPadding, Rows
from jaxformers.training.data.draws import Draws


@dataclass(frozen=True)
class DataCollatorForLanguageModeling(DataCollatorWithPadding):
    """Pads, and makes labels: with `mlm` of hidden tokens (BERT), without it of all tokens (causal models).

    As in transformers: each token but special ones is chosen with `mlm_probability`; of those chosen
    `mask_replace_prob` become the mask token, `random_replace_prob` a random one, the others stay. whole_word_mask
    chooses words, by `word_ids`, else by `offset_mapping`, else by the ## of word pieces, and always masks them.
    """

    mlm: bool = field(default=True, kw_only=True)
    whole_word_mask: bool = field(default=False, kw_only=True)
    mlm_probability: float = field(default=0.15, kw_only=True)
    mask_replace_prob: float = field(default=0.8, kw_only=True)
    random_replace_prob: float = field(default=0.1, kw_only=True)

    def __post_init__(self) -> None:
        if self.mlm and self.tokenizer.mask_token_id is None:
            raise ValueError("hiding words needs a mask token and this tokenizer has none: use mlm=False")
        if self.whole_word_mask and not self.mlm:
            raise ValueError("whole_word_mask hides words, which mlm=False does not")
        shares = (self.mlm_probability, self.mask_replace_prob, self.random_replace_prob)
        if not all(0 <= share <= 1 for share in shares) or shares[1] + shares[2] > 1:
            raise ValueError(
                f"probabilities must lie between 0 and 1, those of replacing add up to 1 at most: {shares}"
            )

    def __call__(self, rows: Rows, draws: Draws | None = None) -> dict[str, np.ndarray]:
        batch = self.inputs(rows, without=("labels", "offset_mapping", "word_ids"))
        special, ids = batch.pop("special_tokens_mask", None), batch["input_ids"]
        real = self.real(rows, batch)
        if not self.mlm:
            batch["labels"] = np.where(real, ids, IGNORED)
            return batch
        special = np.isin(ids, list(self.tokenizer.all_special_ids)) if special is None else special.astype(bool)
        draws = draws or Draws.fresh(len(rows))
        batch["labels"] = np.full_like(ids, IGNORED)
        for place, row in enumerate(rows):
            # Only real tokens draw: how far a batch is padded changes nothing.
            at, draw = np.flatnonzero(real[place]), draws.row(place)
            tokens, words = ids[place, at], self.words(row) if self.whole_word_mask else None
            chosen = self.choose(special[place, at], words, draw)
            batch["labels"][place, at[chosen]] = tokens[chosen]
            ids[place, at] = self.replaced(tokens, chosen, draw)
        return batch

    def real(self, rows: Rows, batch: dict[str, np.ndarray]) -> np.ndarray:
        """Which places hold tokens, Bool [rows, length]. A pad token that also ends texts is one."""
        length = batch["input_ids"].shape[1]
        sizes = np.array([len(row["input_ids"]) for row in rows])[:, None]
        right = self.tokenizer.padding_side == "right"
        out = np.arange(length) < sizes if right else np.arange(length) >= length - sizes
        mask = batch.get("segment_ids", batch.get("attention_mask"))
        return out if mask is None else out & (mask != 0)

    def choose(self, special: np.ndarray, words: np.ndarray | None, draw: np.random.Generator) -> np.ndarray:
        """Which tokens of a row are to be guessed, Bool [tokens]."""
        if words is None:
            return (draw.random(len(special)) < self.mlm_probability) & ~special
        words = np.where(special, -1, words)
        known = np.unique(words[words >= 0])
        return np.isin(words, known[draw.random(len(known)) < self.mlm_probability])

    def replaced(self, ids: np.ndarray, chosen: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """The row with the chosen tokens masked, replaced or left."""
        share, other = draw.random(len(ids)), draw.integers(len(self.tokenizer), size=len(ids))
        masked, random = self.mask_replace_prob, self.random_replace_prob
        if self.whole_word_mask:
            masked, random = 1.0, 0.0
        out = np.where(chosen & (share < masked), self.tokenizer.mask_token_id, ids)
        return np.where(chosen & (share >= masked) & (share < masked + random), other, out)

    def words(self, row: Any) -> np.ndarray:
        """The word of each token of a row, Int [tokens]; -1 for tokens of no word."""
        if row.get("word_ids") is not None:
            return np.array([-1 if word is None else word for word in row["word_ids"]])
        ids = np.asarray(row["input_ids"])
        special = np.isin(ids, list(self.tokenizer.all_special_ids))
        if row.get("special_tokens_mask") is not None:
            special = np.asarray(row["special_tokens_mask"], bool)
        if row.get("offset_mapping") is not None:
            begins = begin_by_offsets(np.asarray(row["offset_mapping"]), special)
        else:
            begins = begin_by_pieces(self.tokenizer.convert_ids_to_tokens(ids.tolist())) & ~special
        return np.where(special, -1, np.cumsum(begins))


def begin_by_offsets(offsets: np.ndarray, special: np.ndarray) -> np.ndarray:
    """Which tokens begin a word: those that do not touch the one before, or follow a special one."""
    before = np.concatenate([[-1], offsets[:-1, 1]])
    after_special = np.concatenate([[False], special[:-1]])
    return ~special & ((offsets[:, 0] != before) | after_special)


def begin_by_pieces(tokens: Sequence[str]) -> np.ndarray:
    """Which tokens begin a word, by the ## of BERT's pieces, or by the Ġ and ▁ that stand for a space."""
    if any(token.startswith(("Ġ", "▁")) for token in tokens):
        return np.array([token.startswith(("Ġ", "▁")) for token in tokens])
    return np.array([not token.startswith("##") for token in tokens])
