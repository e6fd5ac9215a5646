"""Data of other libraries: grain's pipelines with their state, tfds without TensorFlow, what `datasets` looks like."""

import json
import sys

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.core.errors import DataError, MissingExtra
from jaxformers.training.data import tfds_source


def numbers(batches) -> list[list[int]]:
    return [np.asarray(batch["x"]).tolist() for batch in batches]


def resumed(make, cut: int) -> None:
    """Break after `cut` batches, go on in a new loader, and compare with a run that was not broken."""
    whole = numbers(make())
    loader = make()
    batches = iter(loader)
    for _ in range(cut):
        next(batches)
    state = json.loads(json.dumps(loader.state()))
    again = make()
    again.restore(state)
    assert numbers(again) == whole[cut:] and len(whole) > cut


def test_grain_pipelines_keep_their_state() -> None:
    import grain

    def pipeline(counts):
        def row(i):
            counts.append(i)
            return {"x": i}

        return grain.MapDataset.range(40).seed(3).shuffle().filter(lambda i: i % 4 != 0).map(row)

    read: list[int] = []
    for kind in (lambda p: p, lambda p: p.to_iter_dataset()):
        make = lambda: jf.DataLoader(kind(pipeline([])), batch_size=4, epochs=1, last="keep", prefetch=0)  # noqa: E731, B023
        assert sorted(sum(numbers(make()), [])) == [i for i in range(40) if i % 4]
        resumed(make, 3)
    state = jf.DataLoader(pipeline([]), batch_size=4, epochs=1, prefetch=0)
    batches = iter(state)
    for _ in range(5):
        next(batches)
    again = jf.DataLoader(pipeline(read), batch_size=4, epochs=1, prefetch=0)
    again.restore(state.state())
    next(iter(again))
    assert len(read) < 20  # it goes to its place, and does not read again what came before


class Numbers:
    """A source as grain's loader wants it: its state is valid for sources that are written alike."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> dict:
        return {"x": i}

    def __repr__(self) -> str:
        return "Numbers()"


def test_grain_loaders_and_batches_of_their_own() -> None:
    import grain

    def loader():
        sampler = grain.samplers.IndexSampler(24, shuffle=True, seed=1, num_epochs=1)
        return grain.DataLoader(data_source=Numbers(), sampler=sampler, worker_count=0)

    resumed(lambda: jf.DataLoader(loader(), batch_size=4, epochs=1), 2)
    batched = lambda: grain.MapDataset.range(24).map(lambda i: {"x": i}).batch(4)  # noqa: E731
    own = lambda: jf.DataLoader(batched(), batch_size=None, epochs=1)  # noqa: E731
    assert numbers(own()) == [list(range(i, i + 4)) for i in range(0, 24, 4)]
    for count, _ in enumerate(made := own(), 1):
        assert made.state()["row"] == 4 * count
    resumed(own, 2)


class Frame:
    """The face of a table of pandas."""

    iloc, columns = None, ["x", "label"]

    def __getitem__(self, name: str):
        column = {"x": np.arange(6), "label": np.arange(6) % 2}[name]
        return type("Series", (), {"to_numpy": lambda self: column})()


def test_tables() -> None:
    import pyarrow

    table = pyarrow.table({"x": list(range(6)), "label": [i % 2 for i in range(6)]})
    for source in (table, Frame()):
        batches = list(jf.DataLoader(source, batch_size=3, epochs=1))
        assert numbers(batches) == [[0, 1, 2], [3, 4, 5]] and batches[0]["labels"].tolist() == [0, 1, 0]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A tiny data set in array_record files."""
    folder = tmp_path_factory.mktemp("tfds")
    package = folder / "tiny_words"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tiny_words_dataset_builder.py").write_text(
        "import numpy as np, tensorflow_datasets as tfds\n"
        "class Builder(tfds.core.GeneratorBasedBuilder):\n"
        "    VERSION = tfds.core.Version('1.0.0')\n"
        "    def _info(self):\n"
        "        label = tfds.features.ClassLabel(names=['a', 'b'])\n"
        "        fields = {'text': tfds.features.Text(), 'x': tfds.features.Scalar(np.int32), 'label': label}\n"
        "        features = tfds.features.FeaturesDict(fields)\n"
        "        return self.dataset_info_from_configs(features=features)\n"
        "    def _split_generators(self, dl_manager):\n"
        "        return {'train': self._generate_examples()}\n"
        "    def _generate_examples(self):\n"
        "        for i in range(20):\n"
        "            yield i, {'text': f'text {i}', 'x': i, 'label': i % 2}\n"
    )
    sys.path.insert(0, str(folder))
    try:
        from tiny_words.tiny_words_dataset_builder import Builder

        builder = Builder(data_dir=str(folder / "data"), file_format="array_record")
        builder.download_and_prepare()
    finally:
        sys.path.remove(str(folder))
    return builder.data_path


def test_tfds_without_tensorflow(built) -> None:
    source = tfds_source(str(built))
    transform = lambda row: {**row, "text": row["text"].decode(), "length": len(row["text"])}  # noqa: E731
    make = lambda: jf.DataLoader(source, batch_size=4, epochs=1, shuffle=True, transform=transform)  # noqa: E731
    batches = list(make())
    assert sorted(np.concatenate([batch["x"] for batch in batches]).tolist()) == list(range(20))
    assert all((batch["labels"] == batch["x"] % 2).all() for batch in batches)
    resumed(make, 2)
    assert len(tfds_source(str(built), "train[:25%]")) == 5
    assert "tensorflow" not in sys.modules
    with pytest.raises(DataError, match=r"has no split 'test'; it has \['train'\]"):
        tfds_source(str(built), "test")


def test_a_missing_library_names_its_extra(monkeypatch, built) -> None:
    monkeypatch.setitem(sys.modules, "array_record", None)
    with pytest.raises(MissingExtra, match=r"reading TensorFlow Datasets needs array_record.*jaxformers\[data\]"):
        tfds_source(str(built))


class Dataset:
    """The face of `datasets.IterableDataset`: it counts epochs and says where it stands."""

    def __init__(self) -> None:
        self.epoch, self.at, self.begin, self.reads = 0, 0, 0, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict:
        return {"epoch": self.epoch, "at": self.at}

    def load_state_dict(self, state: dict) -> None:
        self.begin = state["at"]

    def __iter__(self):
        begin, self.begin = self.begin, 0
        for i in range(begin, 20):  # until here it tells where the last epoch ended, as `datasets` does
            self.at, self.reads = i + 1, self.reads + 1
            yield {"x": i + 100 * self.epoch}


def test_data_sets_that_keep_their_state() -> None:
    make = lambda: jf.DataLoader(Dataset(), batch_size=3, epochs=2, last="keep", prefetch=0)  # noqa: E731
    assert sum(numbers(make()), []) == [*range(20), *range(100, 120)]
    for cut in (2, 7, 9):
        resumed(make, cut)
    shuffled = lambda: jf.DataLoader(Dataset(), batch_size=3, epochs=2, shuffle=True, window=7)  # noqa: E731
    for cut in (1, 3, 6, 7, 8, 11):
        resumed(shuffled, cut)
    loader = make()
    next(iter(loader))
    again = jf.DataLoader(source := Dataset(), batch_size=3, epochs=2, prefetch=0)
    again.restore(loader.state())
    next(iter(again))
    assert source.reads == 3


class BufferShuffledExamplesIterable:
    """The name by which `datasets` calls what its state forgets."""


def test_states_that_forget_rows_are_not_trusted() -> None:
    class Forgetful(Dataset):
        def __init__(self, place: str) -> None:
            super().__init__()
            if place == "last":
                self._shuffling = "a buffer"
            else:
                mapped = type("MappedExamplesIterable", (), {"ex_iterables": [BufferShuffledExamplesIterable()]})()
                self._ex_iterable = type("MappedExamplesIterable", (), {"ex_iterable": mapped})()

        def load_state_dict(self, state: dict) -> None:
            raise AssertionError("this state is not exact")

    for place in ("last", "inside"):
        resumed(lambda: jf.DataLoader(Forgetful(place), batch_size=3, epochs=2, prefetch=0), 7)  # noqa: B023
