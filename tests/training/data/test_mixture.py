"""Mixtures keep their shares at every place, and continue exactly."""

import json
from functools import partial

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.training.data import mix

A, B = [{"x": i} for i in range(30)], [{"x": 100 + i} for i in range(10)]


def rows(loader) -> list[int]:
    return [int(x) for batch in loader for x in batch["x"]]


@pytest.mark.parametrize("stream", [False, True])
def test_shares_hold_at_every_place(stream) -> None:
    second = (lambda: iter(B)) if stream else B
    make = lambda stop: jf.DataLoader(mix([A, second], [1, 3], stop), batch_size=1, epochs=1)  # noqa: E731
    first = rows(make("first"))
    # 10 rows of the second are 3 1/3 of the first; a stream notices its end when a further row is due.
    assert [x for x in first if x < 100] == list(range(4 if stream else 3))
    assert [x for x in first if x >= 100] == list(range(100, 110))
    every = rows(make("all"))
    assert [x for x in every if x < 100] == list(range(30)) and len(every) == pytest.approx(120, abs=3)
    ours = np.cumsum([x < 100 for x in every]) / np.arange(1, len(every) + 1)
    assert np.abs(ours - 0.25)[8:].max() < 0.1
    again = [x for x in every if x >= 100]
    assert again[:20] == [*range(100, 110)] * 2  # the shorter one begins again


@pytest.mark.parametrize("stream", [False, True])
def test_mixtures_continue_exactly(stream) -> None:
    sources = [lambda: iter(A), B] if stream else [A, B]
    make = partial(jf.DataLoader, batch_size=4, epochs=2, shuffle=True, window=9)
    whole = rows(make(mix(sources, [2, 1])))
    for cut in (1, 5, 9, 13):
        loader = make(mix(sources, [2, 1]))
        batches = iter(loader)
        for _ in range(cut):
            next(batches)
        other = make(mix(sources, [2, 1]))
        other.restore(json.loads(json.dumps(loader.state())))
        assert rows(other) == whole[4 * cut :]


def test_equal_parts_are_the_default() -> None:
    assert rows(jf.DataLoader(mix([A[:3], B[:3]]), batch_size=2, epochs=1)) == [0, 100, 1, 101, 2, 102]
    assert len(mix([A, B])) == 60 and len(mix([A, B], stop="first")) == 20


def test_mixtures_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 sources have the weights \[1\]"):
        mix([A, B], [1])
    with pytest.raises(ValueError, match="stop is 'never'"):
        mix([A, B], stop="never")
    with pytest.raises(ValueError, match=r"\[30, 0\] rows"):
        mix([A, []])
    with pytest.raises(ValueError, match="source 1 of the mixture has no rows"):
        list(jf.DataLoader(mix([lambda: iter(A), lambda: iter([])]), batch_size=1, epochs=1))
