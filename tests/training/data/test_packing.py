"""Packing: every token once, documents whole and apart, exact resume from any row."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxformers as jf
from jaxformers.core.errors import DataError
from jaxformers.training.data import BestFit, ConcatSplit, FirstFit, FitPairs, PackedSource, packing_efficiency
from jaxformers.training.data.packing import best_fit, first_fit

RNG = np.random.default_rng(0)
LENGTHS = np.minimum(np.maximum(RNG.lognormal(2.5, 0.9, 300).astype(int), 1), 90)
DOCUMENTS = [{"input_ids": (i * 100 + np.arange(n)).tolist()} for i, n in enumerate(LENGTHS)]
SIZE = 64
PACKERS = [FirstFit(SIZE, window=50), BestFit(SIZE, window=50), ConcatSplit(SIZE, window=20)]


def segments(rows) -> list[list[int]]:
    """The token ids of every segment of every row."""
    out = []
    for row in rows:
        for number in range(1, row["segment_ids"].max() + 1):
            at = row["segment_ids"] == number
            assert row["labels"][at][0] == -100 and np.array_equal(row["labels"][at][1:], row["input_ids"][at][1:])
            out.append(row["input_ids"][at].tolist())
        padding = row["segment_ids"] == 0
        assert (row["input_ids"][padding] == 7).all() and (row["labels"][padding] == -100).all()
    return out


@given(st.lists(st.integers(1, 20), max_size=60))
@pytest.mark.parametrize("plan", [first_fit, best_fit])
def test_plans_place_every_document_once_where_it_fits(plan, lengths) -> None:
    rows = plan(lengths, 20)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    used = [sum(lengths[i] for i in row) for row in rows]
    assert all(0 < total <= 20 for total in used)
    assert all(a + b > 20 for a, b in zip(sorted(used), sorted(used)[1:], strict=False))  # no two rows fit in one


@pytest.mark.parametrize("packer", PACKERS, ids=lambda packer: type(packer).__name__)
@pytest.mark.parametrize("stream", [False, True])
def test_every_token_is_packed_once(packer, stream) -> None:
    source = (lambda: iter(DOCUMENTS)) if stream else DOCUMENTS
    batches = list(jf.DataLoader(source, batch_size=1, pack=replace(packer, pad=7), epochs=1, last="keep"))
    rows = [{name: value[0] for name, value in batch.items()} for batch in batches]
    found = sorted(token for ids in segments(rows) for token in ids)
    assert found == sorted(token for row in DOCUMENTS for token in row["input_ids"])
    if isinstance(packer, FirstFit):  # whole documents, and long ones in pieces
        whole = {
            tuple(row["input_ids"][i : i + SIZE]) for row in DOCUMENTS for i in range(0, len(row["input_ids"]), SIZE)
        }
        assert {tuple(ids) for ids in segments(rows)} == whole
    assert packing_efficiency(batches) > (0.98 if isinstance(packer, ConcatSplit) else 0.93)


@pytest.mark.parametrize("packer", PACKERS, ids=lambda packer: type(packer).__name__)
@pytest.mark.parametrize("stream", [False, True])
def test_packed_rows_are_resumed_exactly(packer, stream) -> None:
    source = (lambda: iter(DOCUMENTS)) if stream else DOCUMENTS
    make = partial(jf.DataLoader, source, batch_size=3, pack=packer, epochs=2, shuffle=True, window=40)
    whole = [batch["input_ids"] for batch in make()]
    for cut in (0, 1, 7, len(whole) // 2, len(whole) // 2 + 1, len(whole) - 1):
        loader = make()
        batches = iter(loader)
        for _ in range(cut):
            next(batches)
        again = make()
        again.restore(json.loads(json.dumps(loader.state())))
        rest = [batch["input_ids"] for batch in again]
        assert len(rest) == len(whole) - cut
        assert all(np.array_equal(a, b) for a, b in zip(rest, whole[cut:], strict=True))


def test_long_documents() -> None:
    rows = [{"input_ids": list(range(10)), "labels": list(range(10))}]
    pack = lambda **options: list(jf.DataLoader(rows, batch_size=1, epochs=1, pack=FirstFit(4, **options)))  # noqa: E731
    assert [batch["input_ids"][0].tolist() for batch in pack()] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 0]]
    assert [batch["input_ids"][0].tolist() for batch in pack(long="cut")] == [[0, 1, 2, 3]]
    assert [batch["labels"][0].tolist() for batch in pack(long="cut", shift=0)] == [[0, 1, 2, 3]]
    with pytest.raises(DataError, match="no batch"):
        pack(long="drop")
    with pytest.raises(DataError, match="row 0 of the data has 10 tokens; rows are packed to 4"):
        pack(long="error")


def test_rows_that_cannot_be_packed_are_named() -> None:
    pack = lambda rows: list(jf.DataLoader(rows, batch_size=1, epochs=1, pack=FirstFit(4)))  # noqa: E731
    with pytest.raises(DataError, match=r"row 1 of the data cannot be packed: it has no input_ids, only \['text'\]"):
        pack([{"input_ids": [1]}, {"text": "a"}])
    with pytest.raises(DataError, match=r"row 0 of the data, field 'labels': has shape \(1,\), input_ids \(2,\)"):
        pack([{"input_ids": [1, 2], "labels": [1]}])


def test_pairs_are_packed_on_both_sides() -> None:
    rows = [
        {"input_ids": (i * 10 + np.arange(n)).tolist(), "labels": (i * 10 + np.arange(m)).tolist()}
        for i, (n, m) in enumerate(zip(RNG.integers(1, 9, 40), RNG.integers(1, 6, 40), strict=True))
    ]
    packer = FitPairs(16, 10, start=777, window=15, pad=1)
    batches = list(jf.DataLoader(rows, batch_size=1, epochs=1, last="keep", pack=packer))
    found = []
    for batch in batches:
        row = {name: value[0] for name, value in batch.items()}
        assert row["input_ids"].shape == (16,) and row["labels"].shape == (10,)
        for number in range(1, row["segment_ids"].max() + 1):
            source, target = row["segment_ids"] == number, row["decoder_segment_ids"] == number
            found.append({"input_ids": row["input_ids"][source].tolist(), "labels": row["labels"][target].tolist()})
            assert row["decoder_input_ids"][target].tolist() == [777, *found[-1]["labels"][:-1]]
        assert (row["labels"][row["decoder_segment_ids"] == 0] == -100).all()
    assert sorted(found, key=str) == sorted(rows, key=str)
    assert packing_efficiency(batches) > 0.7
    with pytest.raises(DataError, match="row 0 of the data, field 'labels': packing pairs needs a list"):
        list(jf.DataLoader([{"input_ids": [1], "labels": 1}], batch_size=1, pack=packer))


def test_processes_read_only_their_rows_of_a_packed_source() -> None:
    class Counting(list):
        reads = 0

        def __getitem__(self, index):
            Counting.reads += 1
            return super().__getitem__(index)

    documents = Counting(DOCUMENTS)
    packed = PackedSource(documents, BestFit(SIZE), lengths=LENGTHS)
    assert Counting.reads == 0 and packing_efficiency(packed) > 0.97
    one = list(jf.DataLoader(packed, batch_size=4, epochs=1, shuffle=True))
    Counting.reads = 0
    half = list(jf.DataLoader(packed, batch_size=4, epochs=1, shuffle=True, process_index=1, process_count=2))
    assert Counting.reads < 0.6 * len(DOCUMENTS)
    assert all(np.array_equal(a["input_ids"][2:], b["input_ids"]) for a, b in zip(one, half, strict=True))
