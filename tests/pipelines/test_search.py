"""Ranking by meaning, and the vectors kept beside a corpus."""

import os
import shutil

import numpy as np
import pytest

from jaxformers.pipelines.embed import Embedder
from jaxformers.pipelines.search import TextIndex
from jaxformers.pipelines.texts import read_texts

CORPUS = ["the cat sat on the mat", "how do i read a zip file ?", "the river runs fast", "a red house"]


@pytest.fixture(scope="module")
def embedder(tiny_bert):
    return Embedder.from_pretrained(tiny_bert)


def test_every_text_finds_itself(embedder):
    index = TextIndex.build(embedder, CORPUS)
    for row, hits in enumerate(index.search(CORPUS, top=3)):
        assert len(hits) == 3 and hits[0].row == row and hits[0].text == CORPUS[row]
        assert hits[0].score == pytest.approx(1, abs=1e-5)
        assert hits[0].score >= hits[1].score >= hits[2].score
    assert len(index.search(["cat"], top=50)[0]) == len(CORPUS)


def test_vectors_are_kept_until_something_changes(embedder, tiny_bert, tmp_path):
    cache = tmp_path / "corpus.vectors.npz"
    fresh = TextIndex.build(embedder, CORPUS, cache).vectors
    first = cache.stat().st_mtime_ns
    np.testing.assert_array_equal(TextIndex.build(embedder, CORPUS, cache).vectors, fresh)
    assert cache.stat().st_mtime_ns == first
    changed = TextIndex.build(embedder, [*CORPUS[:-1], "a blue house"], cache).vectors
    assert cache.stat().st_mtime_ns != first and not np.allclose(changed[-1], fresh[-1])
    # The same texts with other weights: here only the time of the file tells.
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    other = Embedder.from_pretrained(folder)
    TextIndex.build(other, CORPUS, cache)
    second = cache.stat().st_mtime_ns
    os.utime(folder / "model.safetensors", (1, 1))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    TextIndex.build(other, CORPUS, cache)
    assert cache.stat().st_mtime_ns != second


def test_a_damaged_cache_is_made_again(embedder, tmp_path):
    cache = tmp_path / "corpus.vectors.npz"
    expected = TextIndex.build(embedder, CORPUS, cache).vectors
    whole = cache.read_bytes()
    for damage in (b"", b"not a zip file", whole[: len(whole) // 2]):
        cache.write_bytes(damage)
        np.testing.assert_allclose(TextIndex.build(embedder, CORPUS, cache).vectors, expected, atol=1e-6)
        assert len(cache.read_bytes()) == len(whole)
    assert [path.name for path in tmp_path.iterdir()] == [cache.name]


def test_read_lines_and_fields(tmp_path):
    lines = tmp_path / "a.txt"
    lines.write_bytes("one\n\n  two\u2028too \r\n".encode())
    assert read_texts(str(lines)) == [(1, "one"), (3, "two\u2028too")]
    records = tmp_path / "a.jsonl"
    records.write_text('{"text": "one"}\n{"text": "two", "title": "t"}\n')
    assert read_texts(str(records)) == [(1, "one"), (2, "two")]
    with pytest.raises(ValueError, match=r"line 1: no text in field 'title'; found \['text'\]"):
        read_texts(str(records), "title")
    records.write_text('{"text": "one"}\n{"text": \n')
    with pytest.raises(ValueError, match="line 2: not JSON"):
        read_texts(str(records))
    lines.write_bytes(b"fine\n\xff\xfe\n")
    with pytest.raises(ValueError, match="line 2: found bytes that are not UTF-8"):
        read_texts(str(lines))
    lines.write_text("\n\n")
    with pytest.raises(ValueError, match="found no text"):
        read_texts(str(lines))
