"""Parts of whisper's generate against transformers' own: time warping, the median filter, cuts, ratios."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.whisper.generation_whisper import (
    WhisperGenerationMixin,
    _dynamic_time_warping,
    _median_filter,
)

from jaxformers.generation.config import GenerationConfig
from jaxformers.generation.whisper_alignment import median_filter, token_times, warp
from jaxformers.generation.whisper_fallback import compression_ratio
from jaxformers.generation.whisper_segments import Heard, cut_segments, padded_sequences
from jaxformers.generation.whisper_settings import Settings, SpeechArguments

FIRST = 10


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=st.integers(1, 7), columns=st.integers(1, 12), seed=st.integers(0, 99), few=st.booleans())
def test_time_warping(rows, columns, seed, few):
    rng = np.random.default_rng(seed)
    cost = rng.integers(0, 3, (rows, columns)).astype(float) if few else rng.standard_normal((rows, columns))
    for ours, theirs in zip(warp(cost), _dynamic_time_warping(cost), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_time_warping_of_nothing_to_compare():
    cost = np.full((1, 5), np.nan)
    for ours, theirs in zip(warp(cost), _dynamic_time_warping(cost), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(width=st.sampled_from([1, 3, 7]), columns=st.integers(1, 12), seed=st.integers(0, 9))
def test_median_filter(width, columns, seed):
    x = np.random.default_rng(seed).standard_normal((2, 3, columns)).astype(np.float32)
    np.testing.assert_array_equal(median_filter(x, width), _median_filter(torch.tensor(x), width).numpy())


def test_bad_width():
    with pytest.raises(ValueError, match="odd and positive"):
        median_filter(np.zeros((1, 9)), 4)


def test_no_tokens_have_no_times():
    assert token_times(np.zeros((2, 0, 9), np.float32), 3, None, 7).tolist() == [0.0] * 4


@settings(max_examples=30, deadline=None, derandomize=True)
@given(tokens=st.lists(st.integers(0, 51864), min_size=1, max_size=40), vocabulary=st.sampled_from([100, 300, 51865]))
def test_compression(tokens, vocabulary):
    tokens = np.asarray(tokens) % vocabulary
    want = WhisperGenerationMixin._retrieve_compression_ratio(torch.tensor(tokens), vocabulary)
    assert compression_ratio(tokens, vocabulary) == want


def some_settings(**changes) -> Settings:
    made = Settings(
        SpeechArguments(), GenerationConfig(), True, FIRST, 100, (None,), None, "first-segment", False, False, ()
    )
    return dataclasses.replace(made, **changes)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    tokens=st.lists(st.one_of(st.integers(0, 9), st.integers(FIRST, FIRST + 20)), min_size=1, max_size=12),
    frames=st.integers(1, 100),
    offset=st.sampled_from([0.0, 3.3]),
)
def test_cuts(tokens, frames, offset):
    row = np.asarray(tokens)
    got, further = cut_segments(Heard(row, row, 3, offset, frames), some_settings())
    want, their_further = WhisperGenerationMixin._retrieve_segment(
        seek_sequence=torch.tensor(row),
        seek_outputs=[row],
        time_offset=torch.tensor([offset], dtype=torch.float64),
        timestamp_begin=FIRST,
        seek_num_frames=torch.tensor([frames]),
        time_precision=0.02,
        time_precision_features=0.01,
        input_stride=2,
        prev_idx=0,
        idx=0,
        return_token_timestamps=False,
        decoder_input_ids=torch.zeros(1, 3),
    )
    assert further == int(their_further)
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_array_equal(ours["tokens"], theirs["tokens"].numpy())
        assert ours["idxs"] == theirs["idxs"]
        assert (ours["start"], ours["end"]) == pytest.approx((float(theirs["start"]), float(theirs["end"])))


def test_rows_of_segments():
    rows = [[{"tokens": np.array([1, 2])}, {"tokens": np.array([3, 11, 11])}], None, []]
    begin = np.array([7])
    left = padded_sequences(rows, 0, side="left", begin=begin, longest=4, double_end=FIRST)
    assert left.tolist() == [[7, 1, 2, 3, 11], [0, 0, 0, 0, 7], [0, 0, 0, 0, 7]]
    assert padded_sequences(rows, 0).tolist() == [[1, 2, 3, 11, 11], [0] * 5, [0] * 5]
    # A batch in which no row has anything yet: as transformers measures, the token in front is cut off as well.
    assert padded_sequences([None, []], 0, side="left", begin=begin).shape == (2, 0)
