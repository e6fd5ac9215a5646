"""One window of sound, written again at higher temperatures while what comes out is unlikely or repeats itself."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.generation.asking import read_request
from jaxformers.generation.config import GenerationConfig
from jaxformers.generation.generate import mode_of
from jaxformers.generation.request import Request
from jaxformers.generation.whisper_alignment import token_times
from jaxformers.generation.whisper_review import Review, review
from jaxformers.generation.whisper_settings import Settings
from jaxformers.hub.model import Model

COOL = 0.5  # what was written at this temperature or above is not what the next window goes on from


@dataclass(frozen=True)
class Window:
    """What is to be written: an encoder's output for each row, or features, with the decoder's prompt [b,P].

    frames: of sound from here on, for each row; None where nobody knows. silence: how likely each row is silent.
    """

    inputs: dict[str, np.ndarray]
    ids: np.ndarray
    mask: np.ndarray | None
    config: GenerationConfig
    frames: np.ndarray | None = None
    silence: np.ndarray | None = None

    def rows(self, places: list[int]) -> Window:
        """Some rows."""
        cut = {name: value[places] for name, value in self.inputs.items()}
        known = self.frames if self.frames is None else self.frames[places]
        silence = self.silence if self.silence is None else self.silence[places]
        mask = self.mask if self.mask is None else self.mask[places]
        return Window(cut, self.ids[places], mask, self.config, known, silence)


@dataclass(frozen=True)
class Tried:
    """What a row came to: tokens without prompt, padding and end; the result that its segments hold."""

    tokens: np.ndarray
    result: Any
    cool: bool  # whether the temperature was low
    again: bool  # whether it is not good enough
    silent: bool  # whether nobody speaks


def write_window(
    model: Model,
    settings: Settings,
    window: Window,
    options: dict[str, Any],
    keys: Callable[[], jax.Array | None],
) -> tuple[list[Tried], Any]:
    """Write every row of a window, and those that need it again at the next temperature.

    Returns the rows, and the output of the call if it was the only one.
    """
    found: dict[int, Tried] = {}
    places, whole = list(range(len(window.ids))), None
    for number, temperature in enumerate(settings.temperatures):
        config = at_temperature(window.config, temperature)
        key = keys() if config.do_sample else None
        part = window.rows(places)
        tried, output = write_once(model, settings, part, config, temperature, {**options, "key": key})
        found |= dict(zip(places, tried, strict=True))
        whole = output if number == 0 else None
        places = [place for place, one in zip(places, tried, strict=True) if one.again]
        if not places:
            break
    return [found[place] for place in range(len(window.ids))], whole


def at_temperature(config: GenerationConfig, temperature: float | None) -> GenerationConfig:
    """The config of one attempt; drawing knows no beams."""
    if temperature is None or temperature <= 0:
        return config.update(do_sample=False, temperature=1.0)
    return config.update(do_sample=True, temperature=float(temperature), num_beams=1)


def write_once(
    model: Model,
    settings: Settings,
    window: Window,
    config: GenerationConfig,
    temperature: float | None,
    options: dict[str, Any],
) -> tuple[list[Tried], Any]:
    """Write every row at one temperature. Returns the rows and what the mode returned."""
    given = {**window.inputs, "decoder_input_ids": window.ids}
    if window.mask is not None:
        given["decoder_attention_mask"] = window.mask
    request = read_request(model, generation_config=config, **given, **options)
    output = mode_of(request)(request)
    sequences = np.asarray(getattr(output, "sequences", output))
    seen = None
    if settings.heads or settings.logprob_threshold is not None:
        seen = review(request, sequences, settings.heads, temperature or 1.0)
    results = row_results(output, sequences, times_of(settings, model, window, seen), request)
    tried = []
    for i, row in enumerate(sequences[:, window.ids.shape[1] :]):
        tokens = unpadded(row, request)
        again, silent = verdict(settings, model, tokens, None if seen is None else seen.logprobs[i], silence(window, i))
        cool = temperature is None or temperature < COOL
        ended = len(tokens) > 0 and tokens[-1] in request.config.eos
        tried.append(Tried(tokens[:-1] if ended else tokens, results[i], cool, again, silent))
    return tried, output


def unpadded(row: np.ndarray, request: Request) -> np.ndarray:
    """New tokens without the padding, but with the end."""
    pad = request.config.pad
    if len(row) == 0 or row[-1] != pad:
        return row
    count = int((row == pad).sum()) - (pad in request.config.eos)
    return row[: len(row) - count]


def silence(window: Window, row: int) -> float:
    """How likely it is that nobody speaks."""
    return 0.0 if window.silence is None else float(window.silence[row])


def verdict(
    settings: Settings, model: Model, tokens: np.ndarray, logprobs: np.ndarray | None, silent: float
) -> tuple[bool, bool]:
    """Whether a row must be written again, and whether it is to be skipped as silence."""
    s = settings
    again = False
    if s.compression_ratio_threshold is not None:
        again = compression_ratio(tokens, model.config.vocab_size) > s.compression_ratio_threshold
    if s.logprob_threshold is None or logprobs is None:
        return again, False
    unlikely = logprobs[: len(tokens)].sum() / max(len(tokens), 1) < s.logprob_threshold
    if s.no_speech_threshold is not None and unlikely and silent > s.no_speech_threshold:
        return False, True
    return bool(again or unlikely), False


def compression_ratio(tokens: np.ndarray, vocab_size: int) -> float:
    """How many times shorter zlib makes the tokens, each as the bytes a vocabulary of this size needs."""
    length = int(math.log2(vocab_size) / 8) + 1
    data = b"".join(int(token).to_bytes(length, "little") for token in tokens)
    return len(data) / len(zlib.compress(data))


def times_of(settings: Settings, model: Model, window: Window, seen: Review | None) -> list[np.ndarray] | None:
    """The time of every token of each row, prompt included; None if not wanted."""
    if not settings.heads or seen is None or seen.weights is None:
        return None
    width, prompt = model.config.median_filter_width, window.ids.shape[1]
    known = [None] * len(window.ids) if window.frames is None else window.frames.tolist()
    rows = zip(seen.weights, known, strict=True)
    return [token_times(weights, prompt, frames, width) for weights, frames in rows]


def row_results(output: Any, sequences: np.ndarray, times: list[np.ndarray] | None, request: Request) -> list[Any]:
    """What the segments of each row hold as `result`: its tokens, or a dictionary of all that was asked for."""
    if times is None and not request.config.return_dict_in_generate:
        return list(sequences)
    fields = {} if output is None or not hasattr(output, "items") else dict(output.items())
    rows = []
    for i, row in enumerate(sequences):
        one = {name: row_of(name, value, i, fields) for name, value in fields.items() if name != "past_key_values"}
        one["sequences"] = row
        if times is not None:
            one["token_timestamps"] = times[i]
        rows.append(one)
    return rows


def row_of(name: str, value: Any, row: int, fields: dict[str, Any]) -> Any:
    """One row of a field of an output, nested as transformers nests it."""
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return tuple(tuple(layer[row][None] for layer in step) for step in value)
    if isinstance(value, tuple):
        beams = fields.get("beam_indices") if name == "scores" else None
        places = [row] * len(value) if beams is None else np.asarray(beams)[row].tolist()
        return [step[place] for step, place in zip(value, places, strict=False)]
    return jnp.asarray(value)[row]
