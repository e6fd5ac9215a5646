"""What whisper's `generate` returns: rows of tokens, a dictionary with segments and times, or one call's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxformers.generation.outputs import GenerateEncoderDecoderOutput
from jaxformers.generation.whisper_fallback import Tried
from jaxformers.generation.whisper_segments import Segments, fitted, padded_sequences, padded_times
from jaxformers.generation.whisper_settings import Settings


def wants_dict(settings: Settings) -> bool:
    """Whether outputs are asked for rather than tokens."""
    asked = settings.asked.return_dict_in_generate
    return bool(settings.config.return_dict_in_generate if asked is None else asked)


def answer(settings: Settings, segments: Sequence[Segments], tried: Sequence[Tried], whole: Any) -> Any:
    """The result of a call. tried: rows of the last window; whole: its output, if all rows came from one."""
    asked, wanted = settings.asked, wants_dict(settings)
    if settings.prompt_ids is not None and settings.prompt_condition_type == "first-segment":
        segments = [row[1:] for row in segments]
    if wanted and (settings.once or not asked.return_timestamps):
        return stacked(settings, [one.result for one in tried], whole)
    pad = settings.config.pad
    rows = unique(segments, pad) if settings.once else padded_sequences(segments, pad)
    sequences = jnp.asarray(rows, jnp.int32)
    if not (wanted or asked.return_segments or settings.heads):
        return sequences
    out: dict[str, Any] = {"sequences": sequences}
    if settings.heads:
        times = unique_times(segments) if settings.once else padded_times(segments)
        out["token_timestamps"] = jnp.asarray(times)
    if wanted or asked.return_segments:
        out["segments"] = list(segments)
    return out


def tokens_of(result: Any) -> np.ndarray:
    """All tokens of a result, prompt and end included."""
    return np.asarray(result["sequences"] if isinstance(result, dict) else result)


def unique(segments: Sequence[Segments], pad: int) -> np.ndarray:
    """The tokens [B,n] of the only window, prompt and end included."""
    return joined([tokens_of(row[0]["result"]) if row else np.zeros(0, np.int32) for row in segments], pad)


def unique_times(segments: Sequence[Segments]) -> np.ndarray:
    """The times of the tokens of the only window."""
    return joined([row[0]["result"]["token_timestamps"] if row else np.zeros(0, np.float32) for row in segments], 0.0)


def joined(rows: Sequence[np.ndarray], pad: Any) -> np.ndarray:
    """Rows of different lengths as one array."""
    width = max((len(row) for row in rows), default=0)
    return np.stack([fitted(row, width, pad, "right") for row in rows])


def stacked(settings: Settings, results: Sequence[Any], whole: Any) -> Any:
    """The output of the last window. Rows that were written apart are joined, without what is told of each step."""
    if not results:
        raise ValueError("nothing was heard: the sound has no frames")
    output = whole
    if output is None:
        rows = joined([tokens_of(result) for result in results], settings.config.pad)
        output = GenerateEncoderDecoderOutput(sequences=jnp.asarray(rows))
    if not settings.heads:
        return output
    times = joined([result["token_timestamps"] for result in results], 0.0)
    return {**dict(output.items()), "token_timestamps": jnp.asarray(times)}
