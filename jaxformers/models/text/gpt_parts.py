"""Pieces that the GPT line shares: q, k, v in one matrix by heads, tasks, and small checks."""

from typing import Any

from jaxformers.core.keymap import KeyMap, Part
from jaxformers.heads.tokens import TokenClassifier
from jaxformers.models import Task
from jaxformers.models.tasks import decoder_tasks

TAGGER = KeyMap({"head": "classifier"})


def qkv_by_head(key: str, heads: int, dim: int) -> dict[str, Part]:
    """Rows of a fused matrix that holds q, k and v of the first head, then of the second, and so on."""
    return {
        f"layers.{{i}}.attn.{name}_proj": Part(key, (heads, 3, dim), (slice(None), n)) for n, name in enumerate("qkv")
    }


def tagger_rate(c: Any) -> float:
    """Dropout before a token classifier; a file may name a rate that the config class has no field for."""
    for name in ("classifier_dropout", "hidden_dropout"):
        rate = getattr(c, name, c.extra.get(name))
        if rate is not None:
            return rate
    return 0.1


def gpt_tasks(name: str, prefix: str, *, tagger: bool = True, **kwargs: Any) -> dict[str, Task]:
    """The heads of a family called `name`, all with their base model at `prefix`."""
    tasks = dict(decoder_tasks(name, heads=("SequenceClassification", "QuestionAnswering"), qa_prefix=prefix, **kwargs))
    if tagger:
        tasks["TokenClassification"] = Task(
            f"{name}ForTokenClassification", lambda c, b: TokenClassifier(b, c.num_labels, tagger_rate(c)), TAGGER
        )
    return tasks


def old_width(raw: dict[str, Any]) -> dict[str, Any]:
    """Read n_embed, the early name of hidden_size, which transformers lets win."""
    width = raw.pop("n_embed", None)
    return raw if width is None else {**raw, "hidden_size": width}
