"""The loss of a task: what transformers' class of that name computes when it is given labels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import jax
from flax import linen as nn

from jaxformers.core.frozen import FrozenDict
from jaxformers.heads.lm import CausalLM
from jaxformers.heads.pretraining import ReplacedTokens, SentencePair
from jaxformers.heads.quantizer import ContrastivePretraining
from jaxformers.heads.seq2seq import Seq2SeqLM
from jaxformers.heads.vision_language import VisionLanguageLM
from jaxformers.hub.auto import TASKS
from jaxformers.hub.model import Model
from jaxformers.training.losses.categories import CategoryLoss, ClassificationLoss, SpanLoss
from jaxformers.training.losses.causal import CausalLoss
from jaxformers.training.losses.contrastive import ClipLoss, PairLoss, SiglipLoss
from jaxformers.training.losses.detection import DetectionLoss
from jaxformers.training.losses.images import ImageClassificationLoss, MaskedImageLoss
from jaxformers.training.losses.masked import MaskedLoss
from jaxformers.training.losses.output import Batch, Loss, LossOutput
from jaxformers.training.losses.pretraining import ReplacedTokensLoss, SentencePairLoss, SpeechCodesLoss
from jaxformers.training.losses.seq2seq import Seq2SeqLoss
from jaxformers.training.losses.speech import CTCLoss, XVectorLoss

# Of several losses that a task may have, the first whose kind of head the model has.
Choices = tuple[tuple[type[nn.Module] | None, type], ...]
WORDS: Choices = ((Seq2SeqLM, Seq2SeqLoss), (None, MaskedLoss))
PRETRAINING: Choices = (
    (SentencePair, SentencePairLoss),
    (ReplacedTokens, ReplacedTokensLoss),
    (ContrastivePretraining, SpeechCodesLoss),
    (CausalLM, CausalLoss),
    (VisionLanguageLM, CausalLoss),
    *WORDS,
)
LOSSES: Mapping[str, type | Choices] = {
    "AudioClassification": ClassificationLoss,
    "AudioFrameClassification": CategoryLoss,
    "AudioXVector": XVectorLoss,
    "CTC": CTCLoss,
    "CausalLM": CausalLoss,
    "ImageClassification": ImageClassificationLoss,
    "ImageSegmentation": DetectionLoss,
    "ImageTextToText": CausalLoss,
    "MaskedImageModeling": MaskedImageLoss,
    "MaskedLM": WORDS,
    "MultimodalLM": CausalLoss,
    "MultipleChoice": CategoryLoss,
    "NextSentencePrediction": CategoryLoss,
    "ObjectDetection": DetectionLoss,
    "PreTraining": PRETRAINING,
    "QuestionAnswering": SpanLoss,
    "Seq2SeqLM": Seq2SeqLoss,
    "SequenceClassification": ClassificationLoss,
    "SpeechSeq2Seq": Seq2SeqLoss,
    "TokenClassification": CategoryLoss,
    "UniversalSegmentation": DetectionLoss,
    "SentenceSimilarity": PairLoss,  # of base models; no task of transformers
}
BY_TYPE: Mapping[str, Mapping[str, type]] = {"ZeroShotImageClassification": {"clip": ClipLoss, "siglip": SiglipLoss}}


def loss_for(model_or_task: Model | str | None, **options: Any) -> Loss:
    """The loss of a model's task, or of a task by name ("CausalLM"); options are the loss's fields.

    "SentenceSimilarity" trains a base model's embeddings. Raises ValueError for a task that transformers has no loss
    for, TypeError for an option that the loss does not have.
    """
    if isinstance(model_or_task, Model):
        return make(choose(model_or_task, model_or_task.task), options)
    task = model_or_task
    kind = LOSSES.get(task or "")
    if isinstance(kind, type):
        return make(kind, options)
    check_task(task)
    return ByModel(str(task), FrozenDict(options))


@dataclass(frozen=True)
class ByModel:
    """The loss of a task that asks the model which one it is."""

    task: str
    options: FrozenDict = FrozenDict()

    def __call__(self, model: Model, batch: Batch, key: jax.Array | None = None) -> LossOutput:
        return make(choose(model, self.task), dict(self.options))(model, batch, key)


def check_task(task: str | None) -> None:
    """Raise ValueError when a task has no loss."""
    if task in LOSSES or task in BY_TYPE:
        return
    known = ", ".join(sorted({*LOSSES, *BY_TYPE}))
    if task is None or task == "TextEncoding":
        what = "a base model has no loss of its own: take a head, or 'SentenceSimilarity', which compares texts"
    else:
        what = f"transformers has no loss for {task!r}" if task in TASKS else f"there is no task {task!r}"
    raise ValueError(f"{what}. Tasks with a loss are {known}; a loss is any function (model, batch, key) -> LossOutput")


def choose(model: Model, task: str | None) -> type:
    """The class of the loss for a task of this model."""
    check_task(task)
    task = str(task)
    if task in BY_TYPE:
        kinds = BY_TYPE[task]
        if model.config.model_type not in kinds:
            raise ValueError(f"{task} has a loss for {', '.join(kinds)}; this is a {model.config.model_type} model")
        return kinds[model.config.model_type]
    choices = LOSSES[task]
    if isinstance(choices, type):
        return choices
    return next(loss for head, loss in choices if head is None or isinstance(model.module, head))


def make(kind: Callable[..., Loss], options: Mapping[str, Any]) -> Loss:
    """The loss with these options. Raises TypeError that names those it has."""
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    wrong = [name for name in options if name not in known]
    if wrong:
        has = ", ".join(known) or "none"
        raise TypeError(f"{kind.__name__} has no option {', '.join(wrong)}; its options are: {has}")  # type: ignore[attr-defined]
    return kind(**options)
