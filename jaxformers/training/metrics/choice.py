"""Metrics by name, and those that are usual for a task."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from jaxformers.training.metrics.classification import F1, Accuracy, Auc, Matthews, Precision, Recall
from jaxformers.training.metrics.detection import MeanAveragePrecision
from jaxformers.training.metrics.entities import Entities
from jaxformers.training.metrics.language import ExactMatch, Perplexity, Spans, Squad
from jaxformers.training.metrics.regression import MeanAbsoluteError, MeanSquaredError, Pearson, Spearman
from jaxformers.training.metrics.texts import Bleu, ChrF, LetterErrors, Rouge, WordErrors

Metric = Callable[..., dict[str, Any]]
METRICS: dict[str, Callable[..., Metric]] = {
    "accuracy": Accuracy, "precision": Precision, "recall": Recall, "f1": F1, "roc_auc": Auc, "auc": Auc,
    "matthews": Matthews, "pearson": Pearson, "spearman": Spearman, "mse": MeanSquaredError, "mae": MeanAbsoluteError,
    "perplexity": Perplexity, "exact_match": ExactMatch, "squad": Squad, "spans": Spans, "entities": Entities,
    "wer": WordErrors, "cer": LetterErrors, "bleu": Bleu, "chrf": ChrF, "rouge": Rouge, "map": MeanAveragePrecision,
}  # fmt: skip


def metric(name: str, **options: Any) -> Metric:
    """A metric by name: `metric("f1", average="macro")(predictions, references) -> {"f1": ...}`.

    It also takes a Trainer's EvalPrediction alone, so it can be its compute_metrics; labels of -100 do not count.
    Raises ValueError for a name or an option that there is not.
    """
    if name not in METRICS:
        raise ValueError(f"there is no metric {name!r}; there are {', '.join(sorted(METRICS))}")
    try:
        return METRICS[name](**options)
    except TypeError as error:
        known = ", ".join(field.name for field in fields(METRICS[name])) or "none"  # type: ignore[arg-type]
        raise ValueError(f"the metric {name!r} does not take {sorted(options)}; its options are: {known}") from error


@dataclass(frozen=True)
class Together:
    """Several metrics of the same predictions, in one dictionary."""

    metrics: tuple[Metric, ...]

    def __call__(self, predictions: Any, references: Any = None) -> dict[str, Any]:
        return {name: value for one in self.metrics for name, value in one(predictions, references).items()}


CLASSES = ("SequenceClassification", "ImageClassification", "AudioClassification", "MultipleChoice")


def metrics_for(task: Any, *, tokenizer: Any = None, config: Any = None) -> Together | None:
    """The usual metrics of a task such as "CausalLM", or of a model; None where there are none.

    tokenizer: decodes what the model writes. config: knows how many labels there are, and their names.
    """
    config = getattr(task, "config", config)
    task = getattr(task, "task", task)
    if task in CLASSES and getattr(config, "num_labels", 2) == 1 and task != "MultipleChoice":
        return Together((Pearson(), Spearman(), MeanSquaredError()))
    if task in CLASSES:
        return Together((Accuracy(),) if task == "MultipleChoice" else (Accuracy(), F1(average="macro")))
    if task == "TokenClassification":
        names = getattr(config, "id2label", None) or {}
        marked = any(str(name)[:2] in ("B-", "I-", "S-", "E-") for name in names.values())
        return Together((Entities(names),) if marked else (Accuracy(), F1(average="macro")))
    if task in ("CTC", "SpeechSeq2Seq"):
        return Together((WordErrors(tokenizer), LetterErrors(tokenizer)))
    if task == "Seq2SeqLM" and tokenizer is not None:
        return Together((Rouge(tokenizer), Bleu(tokenizer)))
    simple = {
        "CausalLM": (Accuracy(shift=1), Perplexity()),
        "MaskedLM": (Accuracy(), Perplexity(shift=0)),
        "Seq2SeqLM": (Accuracy(), Perplexity(shift=0)),
        "QuestionAnswering": (Spans(),),
        "ObjectDetection": (MeanAveragePrecision(),),
    }
    return Together(simple[task]) if task in simple else None
