"""What a call of whisper's `generate` asks: transformers' arguments over the generation config, read and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxformers.core.errors import ConfigError
from jaxformers.generation.config import FIELDS, GenerationConfig
from jaxformers.hub.model import Model

STRIDE = 2  # mel frames for each state of the encoder: its second convolution halves the length
CONDITIONS = ("first-segment", "all-segments")


@dataclass(frozen=True, kw_only=True)
class SpeechArguments:
    """The arguments that whisper's `generate` has besides every model's; transformers' names and defaults."""

    return_timestamps: bool | None = None
    task: str | None = None
    language: Any = None  # one, or one for each row
    is_multilingual: bool | None = None
    prompt_ids: Any = None
    prompt_condition_type: str | None = None
    condition_on_prev_tokens: bool | None = None
    temperature: Any = None  # one, or several to fall back on
    compression_ratio_threshold: float | None = None
    logprob_threshold: float | None = None
    no_speech_threshold: float | None = None
    num_segment_frames: int | None = None  # the model's, whatever is given
    attention_mask: Any = None
    time_precision: float = 0.02  # seconds between timestamps
    time_precision_features: float = 0.01  # seconds between mel frames
    return_token_timestamps: bool | None = None
    return_segments: bool = False
    return_dict_in_generate: bool | None = None
    force_unique_generate_call: bool | None = None
    monitor_progress: Callable[[np.ndarray], None] | None = None


NAMES = tuple(field.name for field in dataclasses.fields(SpeechArguments))


@dataclass(frozen=True)
class Settings:
    """What to do, once arguments and config are one. config: what was said, without defaults for the rest."""

    asked: SpeechArguments
    config: GenerationConfig
    return_timestamps: bool
    timestamp_begin: int
    segment_frames: int
    temperatures: tuple[float | None, ...]
    prompt_ids: np.ndarray | None
    prompt_condition_type: str
    condition: bool  # on what was written before, once something was
    once: bool  # one segment, with its prompt and its end
    heads: tuple[tuple[int, int], ...]  # (layer, head) whose attention tells the time of tokens; none if not wanted
    compression_ratio_threshold: float | None = None
    logprob_threshold: float | None = None
    no_speech_threshold: float | None = None

    def said(self, name: str, default: Any = None) -> Any:
        """What the config says, keys that only whisper has too."""
        return said(self.config, name, default)


def said(config: GenerationConfig, name: str, default: Any = None) -> Any:
    """A field or a further key of a config; the default where it is missing or None."""
    value = getattr(config, name) if name in FIELDS else config.extra.get(name)
    return default if value is None else value


def read_settings(
    model: Model, given: GenerationConfig | None, asked: SpeechArguments, frames: int, fields: dict[str, Any]
) -> Settings:
    """Settle arguments, config and `fields` that override it; frames: of the whole sound. Raises ConfigError."""
    config = (given or GenerationConfig()).over(model.generation_config).update(**fields)
    segment = STRIDE * model.config.max_source_positions
    stamps = wants_timestamps(config, asked, short=frames <= segment)
    config = with_language(config, asked)
    first = said(config, "no_timestamps_token_id")
    settings = Settings(
        asked=asked,
        config=config,
        return_timestamps=stamps,
        timestamp_begin=model.config.vocab_size + 1 if first is None else first + 1,
        segment_frames=segment,
        temperatures=temperatures(asked.temperature),
        prompt_ids=None if asked.prompt_ids is None else np.asarray(asked.prompt_ids, np.int32),
        prompt_condition_type=asked.prompt_condition_type or CONDITIONS[0],
        condition=bool(either(asked, config, "condition_on_prev_tokens")),
        once=bool(either(asked, config, "force_unique_generate_call")),
        heads=alignment_heads(config) if asked.return_token_timestamps else (),
        **{f"{name}_threshold": either(asked, config, f"{name}_threshold") for name in THRESHOLDS},
    )
    check(settings)
    return settings


THRESHOLDS = ("compression_ratio", "logprob", "no_speech")


def either(asked: SpeechArguments, config: GenerationConfig, name: str) -> Any:
    """The argument, or what the config says."""
    value = getattr(asked, name)
    return said(config, name) if value is None else value


def temperatures(given: Any) -> tuple[float | None, ...]:
    """The temperatures to try one after another; None is greedy search as 0.0 is."""
    several = given if isinstance(given, list | tuple) else (given,)
    if not several:
        raise ConfigError("temperature is empty; give a number, or several to fall back on: (0.0, 0.2, 0.4)")
    return tuple(several)


def wants_timestamps(config: GenerationConfig, asked: SpeechArguments, short: bool) -> bool:
    """Whether timestamps are written. Raises ConfigError where they must be and cannot, or may not."""
    wanted = either(asked, config, "return_timestamps")
    if not short:
        if wanted is False:
            raise ConfigError(
                "the sound is longer than one segment, and then whisper must write timestamps to find its way: "
                "pass return_timestamps=True, or features of one segment"
            )
        wanted = True
    if wanted and said(config, "no_timestamps_token_id") is None:
        raise ConfigError(
            "return_timestamps needs no_timestamps_token_id, which the generation config lacks: take the model's "
            "generation_config.json from its page on the Hub, or set it"
        )
    return bool(wanted)


def with_language(config: GenerationConfig, asked: SpeechArguments) -> GenerationConfig:
    """The config with the language and task asked for. Raises ConfigError for a model that does not choose."""
    extra = dict(config.extra)
    needs = {"is_multilingual": "is_multilingual", "language": "lang_to_id", "task": "task_to_id"}
    for name, key in needs.items():
        if (value := getattr(asked, name)) is None:
            continue
        if key not in extra:
            raise ConfigError(
                f"{name} needs {key}, which the generation config lacks: it is older than the argument. Take the "
                "model's generation_config.json from its page on the Hub"
            )
        extra[name] = value
    if (asked.task or asked.language) and extra.get("is_multilingual", True) is False:
        raise ConfigError(
            "this model knows English only, so task and language cannot be chosen; leave them out, or pass "
            "is_multilingual=True if it knows more"
        )
    return dataclasses.replace(config, extra=type(config.extra)(extra))


def alignment_heads(config: GenerationConfig) -> tuple[tuple[int, int], ...]:
    """The heads that follow the sound. Raises ConfigError if the config names none."""
    heads = said(config, "alignment_heads")
    if not heads:
        raise ConfigError(
            "return_token_timestamps needs alignment_heads, which the generation config lacks: take the model's "
            "generation_config.json from its page on the Hub"
        )
    return tuple((int(layer), int(head)) for layer, head in heads)


def check(settings: Settings) -> None:
    """Raise ConfigError for settings that contradict each other."""
    kind = settings.prompt_condition_type
    if kind not in CONDITIONS:
        raise ConfigError(f"prompt_condition_type is {kind!r}; expected one of {', '.join(CONDITIONS)}")
    if kind == "all-segments" and not settings.condition:
        raise ConfigError("prompt_condition_type='all-segments' needs condition_on_prev_tokens=True")
    if settings.no_speech_threshold is not None:
        if settings.logprob_threshold is None:
            raise ConfigError("no_speech_threshold needs logprob_threshold: what is silent is unlikely too")
        if settings.said("no_timestamps_token_id") is None:
            raise ConfigError("no_speech_threshold needs no_timestamps_token_id in the generation config")
