"""The loader: every row once, the same order again, exact resume, disjoint parts for processes."""

import json
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.core.errors import DataError
from jaxformers.training.data.order import BucketBatches, LengthGrouped

DataLoader = jf.DataLoader
ROWS = [{"x": np.full((3,), i, np.int64), "label": i % 4} for i in range(23)]


class Streaming:
    """Rows that can only be iterated."""

    def __iter__(self):
        yield from ROWS


def seen(batches) -> list[list[int]]:
    """The rows of every batch by number."""
    return [batch["x"][:, 0].tolist() for batch in batches]


def noisy(rows, draws):
    """A collator that draws for every row."""
    return {
        "x": np.stack([row["x"] for row in rows]),
        "noise": np.array([draws.row(i).integers(1 << 30) for i in range(len(rows))]),
        "mix": draws.batch().integers(1 << 30, size=1).repeat(len(rows)),
    }


KINDS = {
    "shuffled": dict(source=ROWS, shuffle=True),
    "stream": dict(source=Streaming(), shuffle=True, window=7),
    "plain stream": dict(source=Streaming()),
    "function": dict(source=lambda: iter(ROWS)),
    "grouped": dict(source=ROWS, group_by_length=True, lengths=[i * 7 % 23 for i in range(23)]),
}


def test_a_batch_is_stacked_and_labels_are_renamed() -> None:
    (first, *_) = DataLoader(ROWS, batch_size=4, epochs=1)
    assert first["x"].shape == (4, 3) and first["labels"].tolist() == [0, 1, 2, 3]


def test_columns_are_rows() -> None:
    loader = DataLoader({"x": np.arange(6)[:, None], "text": list("abcdef")}, batch_size=3, epochs=1)
    assert seen(loader) == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(DataError, match="different lengths.*'y': 2"):
        DataLoader({"x": [1, 2, 3], "y": [1, 2]}, batch_size=1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_epoch_reads_every_row_once_in_an_order_of_its_own(kind: str) -> None:
    batches = seen(DataLoader(**KINDS[kind], batch_size=5, epochs=2, last="keep", seed=3))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3] * 2
    first, second = sum(batches[:5], []), sum(batches[5:], [])
    assert sorted(first) == sorted(second) == list(range(23))
    assert (first != second) == ("shuffle" in KINDS[kind] or kind == "grouped")
    assert batches == seen(DataLoader(**KINDS[kind], batch_size=5, epochs=2, last="keep", seed=3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_restored_loader_goes_on_where_the_delivered_batches_end(kind: str, prefetch: int) -> None:
    make = partial(DataLoader, **KINDS[kind], batch_size=4, epochs=3, seed=1, collate=noisy, prefetch=prefetch)
    whole = [{name: value.tolist() for name, value in batch.items()} for batch in make()]
    assert len(whole) == 15
    for cut in (0, 1, 4, 5, 7, 14, 15):
        loader = make()
        batches = iter(loader)
        for _ in range(cut):
            next(batches)
        time.sleep(0.01)  # let the thread run ahead
        state = json.loads(json.dumps(loader.state()))
        again = make()
        again.restore(state)
        rest = [{name: value.tolist() for name, value in batch.items()} for batch in again]
        assert rest == whole[cut:]
        loader.restore(state)  # the same object goes back as well
        assert len(list(loader)) == 15 - cut


@pytest.mark.parametrize("kind", ["shuffled", "stream"])
@pytest.mark.parametrize("last", ["drop", "fill"])
def test_processes_make_disjoint_parts_that_cover_the_batch(kind: str, last: str) -> None:
    make = partial(DataLoader, **KINDS[kind], batch_size=8, epochs=1, last=last, collate=noisy)
    one = list(make())
    parts = [list(make(process_index=i, process_count=4)) for i in range(4)]
    assert [len(part) for part in parts] == [len(one)] * 4 == [3 if last == "fill" else 2] * 4
    for number, batch in enumerate(one):
        for name in ("x", "noise"):
            together = np.concatenate([part[number][name] for part in parts])
            np.testing.assert_array_equal(together, batch[name])


def test_processes_need_batches_of_one_shape() -> None:
    rows = [{"x": [1] * (1 if i < 4 else 2)} for i in range(8)]
    assert len(list(DataLoader(rows, batch_size=4, epochs=1))) == 2
    with pytest.raises(
        DataError, match=r"need one shape for all; found \{'x': \(1,\)\}, then \{'x': \(2,\)\}: collate"
    ):
        list(DataLoader(rows, batch_size=4, epochs=1, process_count=2))


def test_a_state_is_the_same_for_any_number_of_processes() -> None:
    make = partial(DataLoader, ROWS, batch_size=4, epochs=2, shuffle=True)
    one = make(process_index=1, process_count=2)
    batches = iter(one)
    next(batches), next(batches)
    other = make()
    other.restore(one.state())
    assert seen(other) == seen(make())[2:]


def test_filled_rows_do_not_count() -> None:
    rows = [{"x": [float(i)], "label": i, "score_labels": i / 2} for i in range(5)]
    *_, last = DataLoader(rows, batch_size=4, epochs=1, last="fill")
    assert last["labels"].tolist() == [4, -100, -100, -100] and last["x"].shape == (4, 1)
    assert np.isnan(last["score_labels"]).tolist() == [False, True, True, True]
    parts = [
        list(DataLoader(rows, batch_size=4, epochs=1, last="fill", process_index=i, process_count=2)) for i in (0, 1)
    ]
    assert [part[-1]["labels"].tolist() for part in parts] == [[4, -100], [-100, -100]]
    with pytest.raises(DataError, match="a batch has 1 rows for 2 processes"):
        list(DataLoader(rows, batch_size=4, epochs=1, last="keep", process_count=2))


def test_lengths_are_grouped_as_transformers_does() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, 403)
    order = LengthGrouped(lengths, 4, seed=0)(0)
    assert sorted(order) == list(range(403)) and lengths[order[0]] == lengths.max()
    spread = np.ptp(lengths[order[:400]].reshape(100, 4), axis=1)
    assert np.median(spread) < 30  # of 500: about 400 without grouping
    loader = DataLoader([{"input_ids": [1] * n} for n in (5, 1, 5, 1)], batch_size=2, group_by_length=True, epochs=1)
    assert sorted(batch["input_ids"].shape for batch in loader) == [(2, 1), (2, 5)]


def test_samplers_choose_rows() -> None:
    loader = DataLoader(ROWS, batch_size=2, epochs=2, sampler=lambda epoch: [5, 1, 7, epoch])
    assert seen(loader) == [[5, 1], [7, 0], [5, 1], [7, 1]] and len(loader) == 4
    with pytest.raises(ValueError, match=r"rows 5..99; the source has 23 rows"):
        list(DataLoader(ROWS, batch_size=2, epochs=1, sampler=[5, 99]))


def test_batch_samplers_choose_batches() -> None:
    lengths = [3, 12, 4, 1, 9, 2, 7, 3, 16, 5, 11, 4]
    rows = [{"x": np.full(16 if n > 8 else 8 if n > 4 else 4, i)} for i, n in enumerate(lengths)]
    batches = BucketBatches(lengths, (4, 8, 16), tokens=24, seed=2, multiple=2)
    make = partial(DataLoader, rows, batch_size=None, batch_sampler=batches, epochs=3, collate=noisy)
    whole = list(make())
    assert {batch["x"].shape for batch in whole} == {(2, 16), (2, 8), (6, 4)}
    first = [set(batch["x"][:, 0].tolist()) for batch in whole[:4]]
    assert len(set().union(*first)) == 12
    assert all(len({(lengths[i] > 4) + (lengths[i] > 8) for i in batch}) == 1 for batch in first)
    loader = make()
    assert len(loader) == len(whole) == 12
    running = iter(loader)
    for _ in range(4):
        next(running)
    again = make()
    again.restore(json.loads(json.dumps(loader.state())))
    assert [batch["noise"].tolist() for batch in again] == [batch["noise"].tolist() for batch in whole[4:]]
    halves = [list(make(process_index=i, process_count=2)) for i in range(2)]
    for batch, *parts in zip(whole, *halves, strict=True):
        np.testing.assert_array_equal(np.concatenate([part["x"] for part in parts]), batch["x"])
    with pytest.raises(ValueError, match=r"given are also \['batch_size', 'shuffle'\]"):
        make(batch_size=4, shuffle=True)
    with pytest.raises(ValueError, match=r"batch 0 of the batch sampler is \[99\]; the source has 12 rows"):
        list(DataLoader(rows, batch_size=None, batch_sampler=lambda epoch: [[99]]))
    with pytest.raises(ValueError, match="the longest row has 16 tokens, the largest bucket 8"):
        BucketBatches(lengths, (4, 8), tokens=32)


def test_rows_are_transformed_on_threads_in_order() -> None:
    def late(row):
        time.sleep(0.002 * (int(row["x"][0]) % 3))
        return {"x": row["x"] * 2}

    loader = DataLoader(ROWS, batch_size=5, epochs=1, transform=late, threads=4)
    assert sum(seen(loader), []) == [2 * i for i in range(20)]


def test_an_iterator_can_be_read_once() -> None:
    loader = DataLoader(iter(ROWS), batch_size=10, epochs=2)
    with pytest.raises(DataError, match="cannot be opened again"):
        list(loader)


def test_a_loader_begins_anew_after_its_end() -> None:
    loader = DataLoader(ROWS, batch_size=10, epochs=1)
    assert seen(loader) == seen(loader) != []
    assert loader.batches_per_epoch == len(loader) == 2
    batches = iter(loader)
    next(batches)
    loader.reset()
    assert list(batches) == [] and seen(loader)[0][0] == 0


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ([{"a": [1]}, {"a": [1, 2]}], {}, r"row 1 of the data, field 'a': has shape \(2,\).*collator that pads"),
        ([{"a": 1}, {"b": 1}], {}, r"row 1 of the data, field 'a': is missing.*\['b'\]"),
        ([{"a": 1}, {"a": object()}], {}, r"row 1 of the data, field 'a': holds object"),
        ([{"a": 1}, None], {}, "row 1 of the data must be a dict.*None: filter"),
        ([{"a": 1}, {"a": 0}], {"transform": lambda row: {"a": 1 // row["a"]}}, "row 1 .*ZeroDivision.*fields are"),
        ([{"a": 1}] * 2, {"collate": lambda rows: rows[0]["c"]}, r"rows \[0, 1\].*KeyError: 'c'; they have \['a'\]"),
        ([{"a": 1}], {}, "no batch of 2 rows"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefetch", [0, 2])
def test_bad_rows_are_named(source, options, message, prefetch) -> None:
    with pytest.raises(DataError, match=message):
        list(DataLoader(source, batch_size=2, epochs=1, prefetch=prefetch, **options))


def test_a_source_that_fails_names_the_row() -> None:
    class Bad(list):
        def __getitem__(self, index):
            if index == 3:
                raise OSError("disk on fire")
            return {"a": index}

    with pytest.raises(DataError, match="row 3 of the data could not be read: OSError: disk on fire"):
        list(DataLoader(Bad(range(4)), batch_size=4))

    def stream():
        yield {"a": 1}
        raise OSError("disk on fire")

    with pytest.raises(DataError, match="row 1 of the stream could not be read"):
        list(DataLoader(stream, batch_size=4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(source=ROWS, batch_size=6, process_count=4), "6 for 4 processes"),
        (dict(source=ROWS, batch_size=4, process_index=2, process_count=2), r"process_index is 2; expected 0..1"),
        (dict(source=Streaming(), batch_size=4, group_by_length=True), "group_by_length need.*stream"),
        (dict(source=ROWS, batch_size=4, last="pad"), "last is 'pad'"),
        (dict(source=Streaming(), batch_size=None, process_count=2), "passes batches on"),
    ],
)
def test_contradictions_are_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        DataLoader(**arguments)
    with pytest.raises(TypeError, match="read_rows"):
        DataLoader("rows.jsonl", batch_size=1)


def test_a_state_of_another_process_is_refused() -> None:
    own = partial(DataLoader, ROWS, batch_size=4, split="source", process_count=2)
    state = own(process_index=1).state()
    for other, message in (
        (own(), r"of process \[1, 2\].*here is \[0, 2\]"),
        (DataLoader(ROWS, batch_size=4), "here is None"),
    ):
        with pytest.raises(DataError, match=message):
            other.restore(state)
    own(process_index=1).restore({"processes": [own().state(), state]})
    with pytest.raises(DataError, match="of 3 processes.*here are 2 processes"):
        own().restore({"processes": [state] * 3})


def test_a_state_of_another_seed_is_refused() -> None:
    loader = DataLoader(ROWS, batch_size=4, seed=1)
    with pytest.raises(DataError, match="seed 1; expected 1 and 2"):
        DataLoader(ROWS, batch_size=4, seed=2).restore(loader.state())


def test_a_program_that_stops_in_the_middle_ends_well() -> None:
    """The thread is inside jax when the interpreter ends."""
    program = (
        "import jaxformers as jf, numpy as np\n"
        "loader = jf.DataLoader({'x': np.arange(100000)}, batch_size=4, place=jf.to_device, prefetch=64)\n"
        "batches = iter(loader)\n"
        "print(next(batches)['x'].tolist())\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (0, "[0, 1, 2, 3]\n", "")
