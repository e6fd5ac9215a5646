"""Heads that most decoders share, with the names transformers gives them."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from jaxformers.core.config import Config
from jaxformers.core.keymap import KeyMap
from jaxformers.heads.classify import LastTokenClassifier
from jaxformers.heads.lm import CausalLM
from jaxformers.heads.tokens import SpanFinder, TokenClassifier
from jaxformers.models import Task
from jaxformers.nn.linear import Linear

SCORE = KeyMap({"head": "score"})
SPAN = KeyMap({"head": "qa_outputs"})


def lm_head(c: Any) -> nn.Module | None:
    """An own head [width, vocab], or None where the embedding serves."""
    return None if c.tie_word_embeddings else Linear(c.vocab_size, axes=("embed", "vocab"))


def lm_keys(key: str = "lm_head") -> Callable[[Any], KeyMap]:
    """Where the language-model head lies; a tied one may be in the file and is ignored."""

    def keys(c: Any) -> KeyMap:
        return KeyMap(ignore=(f"^{key}\\.",)) if c.tie_word_embeddings else KeyMap({"head": key})

    return keys


def token_dropout(c: Config) -> float:
    """The rate that transformers' generic token classifier uses."""
    for name in ("classifier_dropout", "hidden_dropout"):
        rate = getattr(c, name, None)
        if rate is not None:
            return rate
    return 0.1


def decoder_tasks(
    name: str,
    *,
    lm: Callable[[Any, nn.Module], nn.Module] | None = None,
    heads: tuple[str, ...] = ("SequenceClassification", "QuestionAnswering", "TokenClassification"),
    qa_prefix: str | None = "transformer",
    key: str = "lm_head",
    classifier: str | None = None,
) -> Mapping[str, Task]:
    """Tasks of a decoder family called `name` in transformers. lm: its language model. qa_prefix: QA's base name."""
    all_heads = {
        "SequenceClassification": Task(
            f"{classifier or name}ForSequenceClassification",
            lambda c, b: LastTokenClassifier(b, c.num_labels, c.pad_token_id),
            SCORE,
        ),
        "QuestionAnswering": Task(f"{name}ForQuestionAnswering", lambda c, b: SpanFinder(b), SPAN, prefix=qa_prefix),
        "TokenClassification": Task(
            f"{name}ForTokenClassification",
            lambda c, b: TokenClassifier(b, c.num_labels, token_dropout(c)),
            SCORE,
        ),
    }
    causal = Task(f"{name}ForCausalLM", lm or (lambda c, b: CausalLM(b, lm_head(c))), lm_keys(key))
    return {"CausalLM": causal, **{h: all_heads[h] for h in heads}}
