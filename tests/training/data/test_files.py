"""Rows from files and folders, and bad ones by file and line."""

import gzip
import json

import numpy as np
import pytest
from PIL import Image

import jaxformers as jf
from jaxformers.core.errors import DataError
from jaxformers.training.data import ImageFolder, ProcessImage, read_rows

ROWS = [{"text": f"line {i} ä", "label": str(i)} for i in range(7)]


def write(folder, name: str, rows=ROWS) -> None:
    """Rows in a file of the kind that its name says."""
    path = folder / name
    if name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))
    elif name.endswith(".jsonl"):
        path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\r\n")
    elif name.endswith(".json"):
        path.write_text(json.dumps({"version": 1, "data": rows}))
    elif name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=3)
    else:
        mark = "\t" if name.endswith(".tsv") else ","
        path.write_text("\n".join([mark.join(rows[0]), *(mark.join(row.values()) for row in rows)]) + "\n")


NAMES = ("a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.tsv", "a.parquet")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stream", [False, True])
def test_files_of_every_kind(tmp_path, name, stream) -> None:
    write(tmp_path, name)
    write(tmp_path, "b" + name, [{**row, "text": "second"} for row in ROWS[:2]])
    source = read_rows(str(tmp_path / "*"), stream=stream)
    collate = lambda rows: {"rows": list(rows)}  # noqa: E731
    for _ in range(2):
        read = [
            dict(row)
            for b in jf.DataLoader(source, batch_size=3, epochs=1, last="keep", collate=collate)
            for row in b["rows"]
        ]
        assert read == [*ROWS, *({**row, "text": "second"} for row in ROWS[:2])]
    if not stream:
        assert len(source) == 9 and dict(source[8]) == {"text": "second", "label": "1"}


def test_text_is_read_by_lines(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo ü\nthree")
    source = read_rows(tmp_path / "a.txt")
    assert [source[i] for i in range(len(source))] == [{"text": "one"}, {"text": "two ü"}, {"text": "three"}]
    assert [row["text"] for row in read_rows(tmp_path / "a.txt", stream=True).begin(0)] == ["one", "two ü", "three"]


def test_bad_files_are_named(tmp_path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(DataError, match=r"row 1 of the data.*line 3 of .*bad.jsonl is no JSON"):
        list(jf.DataLoader(read_rows(tmp_path / "bad.jsonl"), batch_size=2))
    with pytest.raises(DataError, match=r"row 1 of the stream.*line 3 of .*bad.jsonl is no JSON"):
        list(jf.DataLoader(read_rows(tmp_path / "bad.jsonl", stream=True), batch_size=2))
    (tmp_path / "list.jsonl").write_text("[1]\n")
    with pytest.raises(DataError, match="line 1 of .* is a list; expected an object"):
        read_rows(tmp_path / "list.jsonl")[0]
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n3\n")
    with pytest.raises(DataError, match=r"line 3 of .*bad.csv has other fields than the first line: \['a', 'b'\]"):
        read_rows(tmp_path / "bad.csv")
    with pytest.raises(DataError, match="no file is named .*none.jsonl"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="several kinds, .*csv.*jsonl"):
        read_rows([tmp_path / "bad.csv", tmp_path / "bad.jsonl"])
    (tmp_path / "data.bin").write_text("x")
    with pytest.raises(DataError, match="say kind="):
        read_rows(tmp_path / "data.bin")
    (tmp_path / "flat.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match="holds 0 lists"):
        read_rows(tmp_path / "flat.json")


def test_image_folders_go_through_a_processor(tmp_path) -> None:
    for name, shade in (("dark", 10), ("bright", 250)):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (20, 10), (shade, shade, shade)).save(tmp_path / name / f"{i}.png")
    source = ImageFolder(tmp_path)
    assert source.names == ["bright", "dark"] and source.label2id == {"bright": 0, "dark": 1} and len(source) == 6
    config = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 8, "width": 8},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    processor = jf.AutoImageProcessor.from_pretrained(tmp_path)
    loader = jf.DataLoader(source, batch_size=6, epochs=1, transform=ProcessImage(processor), threads=2)
    (batch,) = list(loader)
    assert batch["pixel_values"].shape == (6, 3, 8, 8) and batch["labels"].tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(batch["pixel_values"][0], 250 / 127.5 - 1, atol=1e-3)
    (tmp_path / "dark" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"row 3 of the data could not be read: InputError: .*0.png"):
        list(jf.DataLoader(source, batch_size=6, epochs=1, transform=ProcessImage(processor)))
    with pytest.raises(DataError, match="is no folder"):
        ImageFolder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        ImageFolder(tmp_path / "empty")
