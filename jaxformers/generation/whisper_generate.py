"""Whisper's own `generate`: languages, timestamps, and sound of any length, window after window.

The results are those of transformers' WhisperGenerationMixin (arXiv 2212.04356, section 4.5), with two differences
where rows of a batch would disturb each other there: a row that falls back keeps its own verdict, and drawing at a
higher temperature does not end beam search for the windows that follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxformers.core.errors import ConfigError
from jaxformers.generation.asking import IGNORED, listed, unstacked
from jaxformers.generation.config import GenerationConfig
from jaxformers.generation.transforms.force import suppress_tokens, suppress_tokens_at_begin
from jaxformers.generation.transforms.whisper import no_speech_probability, whisper_timestamps
from jaxformers.generation.whisper_fallback import Tried, Window, write_window
from jaxformers.generation.whisper_hearing import Sound, first_scores, language_of
from jaxformers.generation.whisper_outputs import answer, wants_dict
from jaxformers.generation.whisper_prompt import decoder_prompt, first_segments, initial_tokens
from jaxformers.generation.whisper_segments import Heard, cut_segments
from jaxformers.generation.whisper_settings import NAMES, STRIDE, Settings, SpeechArguments, read_settings
from jaxformers.hub.model import Model

# Arguments of `generate` that go on to every window as they are.
PASSED = ("stopping_criteria", "tokenizer", "streamer", "assistant_model", "assistant_tokenizer")
PASSED += ("prefix_allowed_tokens_fn",)


def whisper_generate(
    model: Model,
    inputs: Any = None,
    *,
    input_features: Any = None,
    generation_config: GenerationConfig | None = None,
    key: jax.Array | None = None,
    encoder_outputs: Any = None,
    decoder_input_ids: Any = None,
    logits_processor: Any = None,
    **kwargs: Any,
) -> Any:
    """Transcribe or translate features [B,mels,frames]; see `SpeechArguments` for what can be asked.

    Returns Int [B,N], the new tokens without prompt and end; a dictionary with return_segments=True or
    return_token_timestamps=True (sequences, segments, token_timestamps); an output with return_dict_in_generate=True.
    """
    asked = SpeechArguments(**{name: kwargs.pop(name) for name in NAMES if name in kwargs})
    passed = {name: kwargs.pop(name) for name in PASSED if kwargs.get(name) is not None}
    fields = {name: value for name, value in kwargs.items() if value is not None and name not in IGNORED}
    if inputs is not None and input_features is not None:
        raise ConfigError("inputs and input_features were both given; pass one of them")
    sound = Sound.of(input_features if inputs is None else inputs, encoder_outputs)
    settings = read_settings(model, generation_config, asked, sound.frames, fields)
    config = settings.config
    if wants_dict(settings) and (config.output_attentions or config.output_hidden_states):
        sound = replace(sound, records=True)
    if any(t for t in settings.temperatures) and key is None:
        raise ConfigError("a temperature above 0 draws at random: pass key=jax.random.key(seed) to generate")
    bare = unstacked(model).replace(generation_config=GenerationConfig())
    return Transcription(bare, settings, sound, key, logits_processor, passed).all(decoder_input_ids)


class Transcription:
    """One call, window after window. Rows that are heard to the end take no further part."""

    def __init__(
        self, model: Model, settings: Settings, sound: Sound, key: jax.Array | None, own: Any, options: dict[str, Any]
    ) -> None:
        self.model, self.settings, self.key, self.drawn = model, settings, key, 0
        config, batch = settings.config, sound.batch
        copies = config.num_return_sequences or 1

        def detect() -> list[int]:
            width = settings.segment_frames
            heard = sound.window(model, sound.beginnings(width), width)
            return language_of(model, heard, config).tolist()

        initial = initial_tokens(settings, model.config, batch, detect)
        self.sound, self.initial = sound.repeated(copies), np.repeat(initial, copies, axis=0)
        self.options, self.own = options, own
        self.longest = config.max_length
        self.ends = np.repeat(self.frames_of(batch), copies)
        self.seek = np.zeros(len(self.ends), np.int64)
        self.segments = first_segments(settings, len(self.ends))
        self.condition = [bool(settings.asked.condition_on_prev_tokens)] * len(self.ends)

    def frames_of(self, batch: int) -> np.ndarray:
        """How many frames of each row are sound. Raises ConfigError for long rows whose ends nobody told."""
        mask = self.settings.asked.attention_mask
        long = self.sound.frames > self.settings.segment_frames
        if batch == 1 or not long:
            return np.full(batch, self.sound.frames, np.int64)
        if mask is None:
            raise ConfigError(
                "a batch of long sounds needs attention_mask, to know where each ends: call the processor with "
                "return_attention_mask=True"
            )
        return np.asarray(mask).astype(np.int64).sum(axis=-1)

    def all(self, given: Any) -> Any:
        """Listen to the end. given: a decoder's prompt in place of the first window's."""
        tried: list[Tried] = []
        whole: Any = None
        while (self.seek < self.ends).any():
            if (progress := self.settings.asked.monitor_progress) is not None:
                progress(np.stack([self.seek, self.ends], axis=1))
            active = np.flatnonzero(self.seek < self.ends).tolist()
            window = self.window(active, given)
            given = None
            options = {**self.options, "logits_processor": self.transforms(window.ids.shape[1])}
            tried, whole = write_window(self.model, self.settings, window, options, self.next_key)
            self.note(active, window, tried)
            if self.settings.once:
                break
        return answer(self.settings, self.segments, tried, whole)

    def next_key(self) -> jax.Array | None:
        """A key for one more attempt."""
        self.drawn += 1
        return None if self.key is None else jax.random.fold_in(self.key, self.drawn)

    def window(self, active: Sequence[int], given: Any) -> Window:
        """The next window of the rows that go on."""
        s, limit = self.settings, self.model.config.max_target_positions
        if given is None:
            ids, mask = decoder_prompt(s, limit, self.initial, self.segments, active, self.condition)
        else:
            ids, mask = np.asarray(given, np.int32), None
        config = self.config_for(ids, limit)
        spans = [(row, int(self.seek[row]), int(self.ends[row])) for row in active]
        heard = self.sound.window(self.model, spans, s.segment_frames)
        silence = None
        if s.no_speech_threshold is not None:
            cut = ids.shape[1] - self.initial.shape[1] + 1
            scores = first_scores(self.model, heard, ids[:, :cut], None if mask is None else mask[:, :cut], config)
            silence = np.asarray(no_speech_probability(scores, s.said("no_timestamps_token_id") - 1))
        frames = None
        if s.heads and s.asked.attention_mask is not None:
            total = np.repeat(np.asarray(s.asked.attention_mask).sum(axis=-1), len(self.ends) // self.sound.given)
            frames = (total - self.seek)[active]
        return Window(heard, ids, mask, config, frames, silence)

    def config_for(self, ids: np.ndarray, limit: int) -> GenerationConfig:
        """The config of a window: how long it may be. What whisper forbids is among the transforms."""
        s, config, count = self.settings, self.settings.config, ids.shape[1]
        if (config.max_new_tokens or 0) + count > limit:
            raise ConfigError(
                f"the decoder's prompt has {count} tokens and max_new_tokens is {config.max_new_tokens or 0}: together "
                f"more than the {limit} that this whisper holds. Shorten the prompt, or ask for fewer"
            )
        if self.longest is not None and config.max_new_tokens is None:
            self.longest = min(self.longest + min(limit // 2 - 1, count), limit)
        return config.update(
            max_length=self.longest if config.max_new_tokens is None else None,
            num_return_sequences=1,
            suppress_tokens=None,
            begin_suppress_tokens=None,
            return_dict_in_generate=wants_dict(s),
        )

    def transforms(self, prompt: int) -> tuple:
        """What whisper forbids after a prompt of so many tokens, then the caller's own."""
        s, config = self.settings, self.settings.config
        found: list[Any] = []
        # A draft model must be free to end at once.
        if config.begin_suppress_tokens is not None and "assistant_model" not in self.options:
            found.append(suppress_tokens_at_begin(config.begin_suppress_tokens, prompt))
        if config.suppress_tokens is not None:
            found.append(suppress_tokens(config.suppress_tokens))
        if s.return_timestamps:
            end = config.eos[0] if config.eos else config.bos_token_id
            latest, likely = s.said("max_initial_timestamp_index"), s.said("_detect_timestamp_from_logprob", True)
            found.append(whisper_timestamps(s.timestamp_begin - 1, end, prompt, latest, likely))
        return (*found, *listed(self.own))

    def note(self, active: Sequence[int], window: Window, tried: Sequence[Tried]) -> None:
        """Take down what was heard, and go on behind it."""
        s = self.settings
        for row, one in zip(active, tried, strict=True):
            frames = int(min(self.ends[row] - self.seek[row], s.segment_frames))
            self.condition[row] = s.condition and one.cool
            if one.silent:
                self.seek[row] += frames
                continue
            offset = float(self.seek[row]) * s.asked.time_precision / STRIDE
            heard = Heard(one.tokens, one.result, window.ids.shape[1], offset, frames)
            segments, further = cut_segments(heard, s)
            self.segments[row] += segments
            # A window whose only end is its beginning would be listened to for ever.
            self.seek[row] += further or frames
