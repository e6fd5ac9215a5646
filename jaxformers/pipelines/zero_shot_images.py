"""Zero-shot image classification: labels given as words, compared with a picture by a model of two towers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxformers.pipelines.image_rows import ImageOptions, ImagePipeline
from jaxformers.pipelines.rows import Row
from jaxformers.pipelines.zero_shot import label_list
from jaxformers.processing.shares import sigmoid, softmax


@dataclass(frozen=True)
class ZeroShotImageOptions(ImageOptions):
    """hypothesis_template: a sentence with a place for the label."""

    candidate_labels: str | tuple[str, ...] | list[str] = ()
    hypothesis_template: str = "This is a photo of {}."
    tokenizer_kwargs: Mapping[str, Any] = field(default_factory=dict)


class ZeroShotImageClassification(ImagePipeline):
    """A picture to [{"score", "label"}], best first. Source: arXiv:2103.00020."""

    task = "zero-shot-image-classification"
    heads = ("ZeroShotImageClassification",)
    parts = ("tokenizer", "image_processor")
    options = ZeroShotImageOptions
    outputs = ("logits_per_image",)

    @property
    def sigmoids(self) -> bool:
        """Whether each label is judged by itself, as SigLIP was trained."""
        return "siglip" in self.model.config.model_type

    def prepare(self, item: Any, options: ZeroShotImageOptions) -> list[Row]:
        if not label_list(options.candidate_labels):
            raise ValueError("zero-shot-image-classification needs candidate_labels, a list of names")
        return super().prepare(item, options)

    def forward(self, batch: dict[str, Any], options: ZeroShotImageOptions) -> Mapping[str, Any]:
        texts = [options.hypothesis_template.format(x) for x in label_list(options.candidate_labels)]
        usual: dict[str, Any] = {"padding": True}
        if self.sigmoids:  # trained on texts that are always filled up
            usual = {"padding": "max_length", "max_length": 64, "truncation": True}
        words = self.tokenizer(texts, return_tensors="np", **{**usual, **options.tokenizer_kwargs})
        return {"logits_per_image": self.model(**words, **batch).logits_per_image}

    def finish(self, item: Any, rows: list[Row], outputs: list[dict[str, Any]], options: Any) -> list[dict[str, Any]]:
        logits = np.asarray(outputs[0]["logits_per_image"], np.float32)
        scores = sigmoid(logits) if self.sigmoids else softmax(logits)
        labels = label_list(options.candidate_labels)
        order = sorted(range(len(labels)), key=lambda i: -scores[i])
        return [{"score": float(scores[i]), "label": labels[i]} for i in order]

    def __call__(self, inputs: Any, candidate_labels: Any = None, **options: Any) -> Any:
        """As every pipeline; the labels may be the second argument."""
        given = {} if candidate_labels is None else {"candidate_labels": candidate_labels}
        return super().__call__(inputs, **given, **options)
