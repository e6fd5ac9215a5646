"""What whisper's decoder starts with: the tokens of language, task and timestamps, after what was said before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxformers.core.errors import ConfigError
from jaxformers.generation.whisper_segments import Segments, padded_sequences
from jaxformers.generation.whisper_settings import Settings
from jaxformers.processing.whisper_languages import TASKS, language_code

Detect = Callable[[], Sequence[int]]


def initial_tokens(settings: Settings, model_config: Any, batch: int, detect: Detect) -> np.ndarray:
    """The tokens [B,n] before a transcript; `detect` tells the language of each row where nobody said it."""
    language = settings.said("language")
    rows = [starting_tokens(settings, model_config) for _ in range(batch)]
    undefined = len(rows[0]) < 2 or rows[0][1] is None
    if language is not None:
        found: Sequence[int] | None = [language_token(settings, name) for name in languages(language, batch)]
    else:
        found = detect() if undefined and settings.said("lang_to_id") is not None else None
    for row, token in zip(rows, found or (), strict=bool(found)):
        row[1:2] = [int(token)]
    rows = [ended(settings, with_task(settings, row)) for row in rows]
    return np.asarray(rows, np.int32)


def starting_tokens(settings: Settings, model_config: Any) -> list[int | None]:
    """The start token, and what older configs force after it where neither task nor language is said."""
    start = settings.said("decoder_start_token_id")
    if start is None:
        raise ConfigError("whisper needs decoder_start_token_id in its generation config, and it is missing")
    tokens: list[int | None] = [int(start)]
    if settings.said("task") is not None or settings.said("language") is not None:
        return tokens
    forced = settings.said("forced_decoder_ids") or model_config.extra.get("forced_decoder_ids") or ()
    if forced and forced[0][0] == 1:
        for place, (index, token) in enumerate(forced, 1):
            if index != place:
                raise ConfigError(f"forced_decoder_ids {list(forced)} has no token at {place}; expected 1, 2, 3, ...")
            tokens.append(token)
    return tokens


def languages(language: Any, batch: int) -> list[str]:
    """The language of each row. Raises ConfigError for a list that does not fit."""
    if not isinstance(language, list | tuple):
        return [language] * batch
    if len(language) != batch or any(one is None for one in language):
        raise ConfigError(f"language is {list(language)}; expected one language, or one for each of {batch} rows")
    return list(language)


def language_token(settings: Settings, language: str) -> int:
    """The token of a language given by token, code or name. Raises ConfigError if the model has none."""
    known = settings.said("lang_to_id")
    if known is None:
        raise ConfigError("language needs lang_to_id, which the generation config lacks")
    name = language.lower()
    if name not in known:
        try:
            name = f"<|{language_code(name)}|>"
        except ValueError as error:
            raise ConfigError(str(error)) from error
    if name not in known:
        raise ConfigError(f"this model has no token for the language {language!r}; it has {', '.join(known)}")
    return known[name]


def with_task(settings: Settings, row: list[int | None]) -> list[int | None]:
    """A row with the token of its task; `transcribe` where only the language is said."""
    task, known = settings.said("task"), settings.said("task_to_id")
    if task is not None:
        if task not in TASKS or known is None or task not in known:
            raise ConfigError(f"task is {task!r}; expected one of {', '.join(known or TASKS)}")
        return [*row, known[task]]
    if settings.said("language") is not None and known is not None and not set(row) & set(known.values()):
        return [*row, known["transcribe"]]
    return row


def ended(settings: Settings, row: list[int | None]) -> list[int]:
    """A row with or without the token that says there are no timestamps."""
    mute = settings.said("no_timestamps_token_id")
    if not settings.return_timestamps and mute is not None and row[-1] != mute:
        row = [*row, mute]
    elif settings.return_timestamps and row[-1] == mute:
        row = row[:-1]
    return [token for token in row if token is not None]


def decoder_prompt(
    settings: Settings,
    limit: int,
    initial: np.ndarray,
    segments: Sequence[Segments],
    active: Sequence[int],
    condition: Sequence[bool],
) -> tuple[np.ndarray, np.ndarray | None]:
    """What the decoder of a segment starts with [b,P], and its mask; None where all tokens count.

    limit: the longest text the decoder can hold. segments and condition: of every row; active: rows still going on.
    """
    ids = initial[list(active)]
    prompt, pad = settings.prompt_ids, settings.config.pad
    if any(condition) and segments[0]:
        always = prompt is not None and settings.prompt_condition_type == "all-segments"
        chosen = [segments[i] if condition[i] else None for i in active]
        before = padded_sequences(
            chosen,
            pad,
            side="left",
            begin=prompt if always else previous(settings),
            longest=limit // 2 - 1,
            double_end=settings.timestamp_begin,
        )
        ids = np.concatenate([before, ids], axis=1)
        return ids, ids != pad
    if prompt is not None:
        ids = np.concatenate([np.repeat(prompt[None], len(ids), axis=0), ids], axis=1)
    return ids, None


def previous(settings: Settings) -> np.ndarray | None:
    """The token before what was said earlier: the config's, or the last but one that is suppressed."""
    token = settings.said("prev_sot_token_id")
    suppressed = settings.config.suppress_tokens
    if token is None and suppressed is not None and len(suppressed) >= 2:
        token = suppressed[-2]
    return None if token is None else np.asarray([token], np.int32)


def first_segments(settings: Settings, batch: int) -> list[Segments]:
    """The segments of each row before anything was heard: the prompt, if it counts as what was said first."""
    prompt = settings.prompt_ids
    if prompt is None or settings.prompt_condition_type != "first-segment":
        return [[] for _ in range(batch)]
    start = settings.said("prev_sot_token_id")
    tokens = prompt[1:] if len(prompt) and prompt[0] == start else prompt
    return [[{"tokens": tokens}] for _ in range(batch)]
