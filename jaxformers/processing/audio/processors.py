"""Speech processors: a feature extractor for the sound and a tokenizer for the text, called as one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from jaxformers.core.errors import InputError
from jaxformers.processing.audio.feature_extractor import FeatureExtractor
from jaxformers.processing.processor import Processor

NESTED = ("audio_kwargs", "text_kwargs", "common_kwargs")


class SpeechProcessor(Processor):
    """Sound in, model inputs out; with text as well, its ids become `labels`."""

    parts = ("feature_extractor", "tokenizer")
    feature_extractor: FeatureExtractor

    def __call__(self, audio: Any = None, text: Any = None, sampling_rate: int | None = None, **options: Any) -> Any:
        """Read sound, tokenize text, or both; an option goes to whichever of the two takes it, or to both.

        Raises TypeError for an option that neither takes.
        """
        if audio is None and text is None:
            raise InputError("nothing to process: pass audio, text or both")
        for_audio, for_text = self.split(options)
        encodings = None if text is None else self.tokenizer(text, **for_text)
        if audio is None:
            return encodings
        rate = {} if sampling_rate is None else {"sampling_rate": sampling_rate}
        inputs = self.feature_extractor(audio, **{**for_audio, **rate})
        if encodings is not None:
            inputs["labels"] = encodings["input_ids"]
        return inputs

    def split(self, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Say which options the feature extractor gets and which the tokenizer."""
        nested = {name: options.get(name) or {} for name in NESTED}
        flat = {name: value for name, value in options.items() if name not in NESTED}
        flat = {**nested["common_kwargs"], **flat}
        calls = (self.feature_extractor.__call__, self.tokenizer.__call__)
        audio, text = ({name: value for name, value in flat.items() if takes(call, name)} for call in calls)
        if unknown := sorted(flat.keys() - audio.keys() - text.keys()):
            raise TypeError(f"{type(self).__name__} takes no {', '.join(unknown)}")
        return {**audio, **nested["audio_kwargs"]}, {**text, **nested["text_kwargs"]}

    @property
    def model_input_names(self) -> list[str]:
        """The names of what a call returns."""
        return [*self.feature_extractor.model_input_names, "labels"]


class WhisperProcessor(SpeechProcessor):
    """Whisper's processor; the prompts that choose language and task come from its tokenizer."""

    def get_decoder_prompt_ids(
        self, task: str | None = None, language: str | None = None, no_timestamps: bool = True
    ) -> list[tuple[int, int]]:
        """Return (place, id) of the tokens that force a language and a task."""
        tokenizer: Any = self.tokenizer
        return tokenizer.get_decoder_prompt_ids(task=task, language=language, no_timestamps=no_timestamps)

    def get_prompt_ids(self, text: str, return_tensors: str = "np") -> Any:
        """Return the ids of text that whisper is to take as what was said before."""
        tokenizer: Any = self.tokenizer
        return tokenizer.get_prompt_ids(text, return_tensors=return_tensors)


class Wav2Vec2Processor(SpeechProcessor):
    """wav2vec 2.0's processor, which also pads features and labels for a collator."""

    def pad(self, input_features: Any = None, labels: Any = None, **options: Any) -> Any:
        """Pad the inputs of earlier calls, their labels, or both; labels join the inputs as `labels`."""
        if input_features is None and labels is None:
            raise InputError("nothing to pad: pass input_features, labels or both")
        padded = None if labels is None else self.tokenizer.pad(labels, **options)
        if input_features is None:
            return padded
        extractor: Any = self.feature_extractor
        inputs = extractor.pad(input_features, **options)
        if padded is not None:
            inputs["labels"] = padded["input_ids"]
        return inputs


def takes(call: Callable[..., Any], name: str) -> bool:
    """Whether a call has this parameter, or takes any."""
    parameters = inspect.signature(call).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
