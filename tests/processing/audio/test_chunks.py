"""Pieces of long sound lie where transformers' pipeline cuts them, and their outputs join without seams."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.pipelines.automatic_speech_recognition import chunk_iter
from transformers.pipelines.automatic_speech_recognition import rescale_stride as their_rescale

from jaxformers.core.errors import InputError
from jaxformers.processing.audio.chunks import Chunking, iter_chunks, merge_frames, rescale_stride
from jaxformers.processing.audio.ctc import offsets_to_seconds, samples_per_frame


class Copy:
    """A feature extractor that hands the wave on."""

    sampling_rate = 100

    def __call__(self, wave, **options):
        return {"wave": wave}


@settings(max_examples=80, deadline=None, derandomize=True)
@given(samples=st.integers(1, 300), left=st.integers(0, 20), right=st.integers(0, 20), more=st.integers(1, 50))
def test_pieces_are_transformers(samples, left, right, more):
    wave = np.arange(samples)
    chunking = Chunking(left + right + more, left, right)
    want = list(chunk_iter(wave, Copy(), chunking.length, left, right))
    got = list(iter_chunks(samples, chunking))
    assert [(c.stride, c.is_last) for c in got] == [(w["stride"], w["is_last"]) for w in want]
    pieces = [wave[c.start : c.start + c.stride[0]] for c in got]
    for piece, w in zip(pieces, want, strict=True):
        np.testing.assert_array_equal(piece, w["wave"])
    # Every sample once, and in order.
    np.testing.assert_array_equal(merge_frames(pieces, [c.stride for c in got]), wave)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(stride=st.tuples(st.integers(1, 10**6), st.integers(0, 10**5), st.integers(0, 10**5)), frame=st.integers(1, 400))
def test_strides_in_frames(stride, frame):
    assert rescale_stride(stride, 1 / frame) == their_rescale([stride], 1 / frame)[0]


def test_lengths_in_seconds():
    assert Chunking.of_seconds(30.0, None, 16000) == Chunking(480000, 80000, 80000)
    assert Chunking.of_seconds(10, (4, 2), 16000, 320) == Chunking(160000, 64000, 32000)
    with pytest.raises(InputError, match="shorter than a piece"):
        Chunking(10, 5, 5)


def test_offsets_in_seconds():
    offsets = [{"word": "a", "start_offset": 2, "end_offset": 5}, {"char": "b", "start_offset": 6, "end_offset": 7}]
    frame = samples_per_frame((5, 2, 2, 2, 2, 2, 2))
    assert frame == 320
    got = offsets_to_seconds(offsets, frame, 16000)
    assert got == [{"text": "a", "timestamp": (0.04, 0.1)}, {"text": "b", "timestamp": (0.12, 0.14)}]
