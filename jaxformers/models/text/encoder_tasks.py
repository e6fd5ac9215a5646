"""Heads and key tables that encoders in BERT's line share, and their initialisation."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from jaxformers.core.config import Config
from jaxformers.core.keymap import KeyMap, Part
from jaxformers.heads.tokens import SpanFinder, TokenClassifier
from jaxformers.models import Task
from jaxformers.nn.param import PaddedNormal

CLASSIFIER = KeyMap({"head": "classifier"})
CHOICE = KeyMap({"classifier.head": "classifier"})
FIRST_TOKEN = KeyMap({"head.dense": "classifier.dense", "head.out": "classifier.out_proj"})


def classifier_rate(c: Any) -> float:
    """Dropout before a classifier."""
    return c.hidden_dropout_prob if c.classifier_dropout is None else c.classifier_dropout


def hidden_rate(c: Any) -> float:
    """Dropout before the classifiers of types that have no rate for them."""
    return c.hidden_dropout_prob


def token_tasks(
    name: str, unpooled: Callable[[Any], nn.Module], rate: Callable[[Any], float] = classifier_rate
) -> Mapping[str, Task]:
    """The heads on single tokens of a type called `name`, on its encoder without a pooler."""
    return {
        "TokenClassification": Task(
            f"{name}ForTokenClassification",
            lambda c, b: TokenClassifier(b, c.num_labels, rate(c)),
            CLASSIFIER,
            backbone=unpooled,
        ),
        "QuestionAnswering": Task(
            f"{name}ForQuestionAnswering",
            lambda c, b: SpanFinder(b),
            KeyMap({"head": "qa_outputs"}),
            backbone=unpooled,
        ),
    }


def text_encoding(name: str) -> Mapping[str, Task]:
    """The base model under its second name, AutoModelForTextEncoding."""
    return {"TextEncoding": Task(f"{name}Model", lambda c, b: b, at="", prefix="")}


def masked_keys(dense: str, norm: str, bias: str, decoder: str) -> Callable[[Config], KeyMap]:
    """Where a masked-LM head lies; an untied one keeps its own bias beside its own table.

    bias, decoder: modules that hold a tied head's bias and the table of words.
    """

    def keys(c: Any) -> KeyMap:
        own = {"head.dense": dense, "head.norm": norm}
        if c.tie_word_embeddings:
            copies = rf"^{re.escape(decoder)}\." + ("" if bias != decoder else "weight$")
            return KeyMap({**own, "head": bias}, ignore=(copies,))
        unused = () if bias == decoder else (rf"^{re.escape(bias)}\.bias$",)
        return KeyMap({**own, "head": Part(decoder, also=(bias,)), "head.decoder": decoder}, ignore=unused)

    return keys


def padded_tables(*tables: str, pad: str = "pad_token_id") -> Callable[[Any], Mapping[str, Callable]]:
    """Initialisers of embedding tables whose row for the padding token starts at zero."""

    def init(c: Any) -> Mapping[str, Callable]:
        rule = PaddedNormal(c.initializer_range or 0.02, getattr(c, pad))
        return {rf"(^|\.){table}\.embedding$": rule for table in tables}

    return init
