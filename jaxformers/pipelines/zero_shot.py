"""Zero-shot classification: labels that no head was trained for, judged by a model of entailment."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxformers.pipelines.pipeline import Options, Pipeline
from jaxformers.pipelines.rows import Row
from jaxformers.pipelines.text_rows import text_row
from jaxformers.processing.shares import softmax

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ZeroShotOptions(Options):
    """candidate_labels: a list, or names separated by commas. multi_label: judge each label by itself."""

    candidate_labels: str | tuple[str, ...] | list[str] = ()
    hypothesis_template: str = "This example is {}."
    multi_label: bool = False


class ZeroShotClassification(Pipeline):
    """A text to {"sequence", "labels", "scores"}, the likeliest label first. Source: arXiv:1909.00161."""

    task = "zero-shot-classification"
    heads = ("SequenceClassification",)
    options = ZeroShotOptions

    def check(self) -> None:
        if self.entailment == -1:
            log.warning("no label of this model begins with 'entail': its last label is taken for entailment")

    @property
    def entailment(self) -> int:
        """The number of the label that means entailment, -1 when none says so."""
        found = [int(i) for i, name in (self.model.config.id2label or {}).items() if name.lower().startswith("entail")]
        return found[0] if found else -1

    def prepare(self, item: Any, options: ZeroShotOptions) -> list[Row]:
        labels, template = label_list(options.candidate_labels), options.hypothesis_template
        if not labels:
            raise ValueError("zero-shot-classification needs candidate_labels, a list of names")
        if template.format(labels[0]) == template:
            raise ValueError(f"hypothesis_template {template!r} has no place for the label: write {{}} where it goes")
        if isinstance(item, str) and not item:
            raise ValueError("the text is empty")
        # Only the text may be cut: the hypothesis carries the label.
        return [text_row(self, item, template.format(x), note=x, truncation="only_first") for x in labels]

    def finish(self, item: Any, rows: list[Row], outputs: list[dict[str, Any]], options: ZeroShotOptions) -> Any:
        logits = np.stack([np.asarray(o["logits"], np.float32) for o in outputs])  # [labels, classes]
        yes = self.entailment
        if options.multi_label or len(rows) == 1:
            no = -1 if yes == 0 else 0
            scores = softmax(logits[:, [no, yes]])[:, 1]
        else:
            scores = softmax(logits[:, yes])
        order = np.argsort(scores)[::-1]
        return {
            "sequence": item,
            "labels": [rows[i].note for i in order],
            "scores": [float(scores[i]) for i in order],
        }

    def __call__(self, inputs: Any, candidate_labels: Any = None, **options: Any) -> Any:
        """As every pipeline; the labels may be the second argument."""
        given = {} if candidate_labels is None else {"candidate_labels": candidate_labels}
        return super().__call__(inputs, **given, **options)


def label_list(labels: str | tuple[str, ...] | list[str]) -> list[str]:
    """Label names, of which a string holds several separated by commas."""
    return [x.strip() for x in labels.split(",") if x.strip()] if isinstance(labels, str) else list(labels)
