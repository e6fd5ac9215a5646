"""Audio classification: the likeliest labels of a sound."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxformers.pipelines.audio_rows import AudioPipeline
from jaxformers.pipelines.pipeline import Options
from jaxformers.pipelines.rows import Row
from jaxformers.pipelines.scores import apply, names, ranked, usual_function


@dataclass(frozen=True)
class AudioClassificationOptions(Options):
    """top_k: how many labels; all when it is None. function_to_apply: "sigmoid", "softmax" or "none"."""

    top_k: int | None = None
    function_to_apply: str | None = None


class AudioClassification(AudioPipeline):
    """A sound to [{"label", "score"}], best first."""

    task = "audio-classification"
    heads = ("AudioClassification",)
    options = AudioClassificationOptions

    def prepare(self, item: Any, options: Any) -> list[Row]:
        wave, rate = self.wave(item), self.feature_extractor.sampling_rate
        given = self.feature_extractor(wave, sampling_rate=rate, return_tensors="np")
        wanted = ("input_values", "input_features", "attention_mask")
        return [Row({k: np.asarray(v)[0] for k, v in given.items() if k in wanted})]

    def finish(self, item: Any, rows: list[Row], outputs: list[dict[str, Any]], options: Any) -> list[dict[str, Any]]:
        logits = np.asarray(outputs[0]["logits"], np.float32)
        scores = apply(options.function_to_apply or usual_function(self.model.config), logits)
        return ranked(scores, names(self.model.config), options.top_k)
