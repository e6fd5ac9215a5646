"""Losses by task: what a model, a batch and a key come to, as sums that add up over micro-batches and devices."""

from jaxformers.training.losses.categories import CategoryLoss, ClassificationLoss, SpanLoss
from jaxformers.training.losses.causal import CausalLoss
from jaxformers.training.losses.choose import loss_for
from jaxformers.training.losses.contrastive import ClipLoss, PairLoss, SiglipLoss
from jaxformers.training.losses.detection import DetectionLoss
from jaxformers.training.losses.images import ImageClassificationLoss, MaskedImageLoss
from jaxformers.training.losses.masked import MaskedLoss
from jaxformers.training.losses.matching import pad_objects
from jaxformers.training.losses.output import Batch, Loss, LossOutput
from jaxformers.training.losses.pretraining import ReplacedTokensLoss, SentencePairLoss, SpeechCodesLoss
from jaxformers.training.losses.seq2seq import Seq2SeqLoss
from jaxformers.training.losses.speech import CTCLoss, XVectorLoss

__all__ = [
    "Batch",
    "CTCLoss",
    "CategoryLoss",
    "CausalLoss",
    "ClassificationLoss",
    "ClipLoss",
    "DetectionLoss",
    "ImageClassificationLoss",
    "Loss",
    "LossOutput",
    "MaskedImageLoss",
    "MaskedLoss",
    "PairLoss",
    "ReplacedTokensLoss",
    "SentencePairLoss",
    "Seq2SeqLoss",
    "SiglipLoss",
    "SpanLoss",
    "SpeechCodesLoss",
    "XVectorLoss",
    "loss_for",
    "pad_objects",
]
