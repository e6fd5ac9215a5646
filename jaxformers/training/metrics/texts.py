"""Metrics of written and spoken texts: word and letter errors (jiwer), BLEU and chrF (sacrebleu), ROUGE."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxformers.core.extras import require
from jaxformers.training.metrics.prediction import pair, texts


@dataclass(frozen=True)
class WordErrors:
    """Word error rate over all texts; `tokenizer` decodes ids. normalize: a function that both sides go through."""

    tokenizer: Any = None
    normalize: Any = None

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, float]:
        given, wanted = compared(predictions, references, self.tokenizer, self.normalize)
        jiwer = require("jiwer", extra="metrics", purpose="the word error rate")
        return {"wer": float(jiwer.wer(wanted, given))}


@dataclass(frozen=True)
class LetterErrors:
    """Character error rate over all texts; `tokenizer` and `normalize` as for the word error rate."""

    tokenizer: Any = None
    normalize: Any = None

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, float]:
        given, wanted = compared(predictions, references, self.tokenizer, self.normalize)
        jiwer = require("jiwer", extra="metrics", purpose="the character error rate")
        return {"cer": float(jiwer.cer(wanted, given))}


def compared(predictions: Any, references: Any, tokenizer: Any, normalize: Any) -> tuple[list[str], list[str]]:
    """Both sides' texts, those with an empty reference left out: no rate is defined for them."""
    given, wanted = texts(*pair(predictions, references), tokenizer)
    if normalize is not None:
        given, wanted = [normalize(text) for text in given], [normalize(text) for text in wanted]
    kept = [(a, b) for a, b in zip(given, wanted, strict=True) if b.strip()]
    if not kept:
        raise ValueError("every reference is empty: an error rate needs some text")
    return [a for a, _ in kept], [b for _, b in kept]


def reference_columns(references: Sequence[Any]) -> list[list[str]]:
    """References by their number, as sacrebleu wants them: one text for each row, or several for every row."""
    rows = [[row] if isinstance(row, str) else list(row) for row in references]
    counts = {len(row) for row in rows}
    if len(counts) > 1:
        raise ValueError(f"rows have {sorted(counts)} references; give every row equally many")
    return [list(column) for column in zip(*rows, strict=True)]


@dataclass(frozen=True)
class Bleu:
    """Corpus BLEU in percent by sacrebleu. tokenize: "13a", "zh", "char", "intl", "none", ...; lowercase: fold case."""

    tokenizer: Any = None
    tokenize: str = "13a"
    lowercase: bool = False

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, float]:
        given, wanted = texts(*pair(predictions, references), self.tokenizer)
        sacrebleu = require("sacrebleu", extra="metrics", purpose="BLEU")
        score = sacrebleu.corpus_bleu(
            given, reference_columns(wanted), tokenize=self.tokenize, lowercase=self.lowercase
        )
        return {"bleu": float(score.score)}


@dataclass(frozen=True)
class ChrF:
    """Corpus chrF in percent by sacrebleu; word_order 2 is chrF++."""

    tokenizer: Any = None
    word_order: int = 0

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, float]:
        given, wanted = texts(*pair(predictions, references), self.tokenizer)
        sacrebleu = require("sacrebleu", extra="metrics", purpose="chrF")
        return {
            "chrf": float(sacrebleu.corpus_chrf(given, reference_columns(wanted), word_order=self.word_order).score)
        }


@dataclass(frozen=True)
class Rouge:
    """Mean F1 of ROUGE by rouge-score, the best over a row's references.

    kinds: of "rouge1", "rouge2", "rougeL", "rougeLsum". stem: compare the words' stems.
    """

    tokenizer: Any = None
    kinds: tuple[str, ...] = ("rouge1", "rouge2", "rougeL", "rougeLsum")
    stem: bool = False

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, float]:
        given, wanted = texts(*pair(predictions, references), self.tokenizer)
        scorers = require("rouge_score.rouge_scorer", extra="metrics", purpose="ROUGE")
        scorer = scorers.RougeScorer(list(self.kinds), use_stemmer=self.stem)
        rows = [
            scorer.score_multi([answers] if isinstance(answers, str) else list(answers), text)
            for text, answers in zip(given, wanted, strict=True)
        ]
        return {kind: float(np.mean([row[kind].fmeasure for row in rows])) for kind in self.kinds}
