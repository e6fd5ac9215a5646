"""Bad calls and bad folders raise one error that says what to do."""

import json
import shutil

import pytest

from jaxformers.core.errors import CheckpointError
from jaxformers.hub.auto_tokenizer import AutoTokenizer
from jaxformers.processing import Tokenizer


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((), {}, "text or a text_target"),
        ((5,), {}, "must be a string"),
        ((["a", 5],), {}, "holding 5"),
        ((b"a",), {}, "must be a string"),
        (([],), {}, "batch is empty"),
        (("half \ud83d",), {}, "surrogate"),
        ((["a", "half \ud83d"],), {}, "surrogate"),
        (([("a", "b", "c")],), {}, "the rows must be"),
        (([["a", ["b"]]],), {"is_split_into_words": True}, "the rows must be"),
        (("a b",), {"is_split_into_words": True}, "list of words"),
        (("a", ["b"]), {}, "both as strings"),
        ((["a"], "b"), {}, "list of 1, found one string"),
        ((["a", "b"], ["c"]), {}, "list of 2, found 1"),
        (("a",), {"padding": "most"}, "padding must be"),
        (("a",), {"truncation": "first"}, "truncation must be"),
        (("a",), {"padding": True, "padding_side": "top"}, "padding_side"),
        (("a",), {"max_length": -1}, "negative"),
        (("a b c d",), {"max_length": 5, "truncation": True, "stride": 4}, "stride 4 is too large"),
        (("a b c d e f",), {"max_length": 5, "truncation": True, "stride": 2, "text_pair": "if if if"}, "stride 2"),
        (("a b c",), {"max_length": 3, "truncation": "only_second"}, "only_second"),
        (
            ("a",),
            {"max_length": 9, "padding": True, "truncation": True, "pad_to_multiple_of": 8},
            "not a multiple",
        ),
        ((["a", "b c"],), {"return_tensors": "np"}, "padding=True"),
        ((["a", "b c"],), {"return_tensors": "jax"}, "padding=True"),
        (("a",), {"return_tensors": "pt"}, '"np" or "jax"'),
        (("a",), {"colour": "red"}, "colour"),
    ],
)
def test_bad_calls(arguments, options, message, pair):
    ours = pair("bert").ours
    with pytest.raises((ValueError, TypeError), match=message):
        ours(*arguments, **options)
    assert ours("if")["input_ids"] == pair("bert").theirs("if")["input_ids"]


def test_other_bad_arguments(pair, folder):
    ours = pair("bert").ours
    for call, message in (
        (lambda: ours.decode([-100]), "-100"),
        (lambda: ours.decode("text"), "whole numbers"),
        (lambda: ours.pad({"labels": [1]}), "pad needs input_ids"),
        (lambda: ours.add_special_tokens({"first_token": "x"}), "no special token"),
        (lambda: ours.add_special_tokens({"pad_token": 3}), "must be a string"),
        (lambda: ours.add_special_tokens({"extra_special_tokens": "x"}), "list of tokens"),
        (lambda: setattr(ours, "pad_token", 3), "must be a string"),
        (lambda: pair("unigram").ours("a", padding="max_length", max_length=-2), "negative"),
        (lambda: Tokenizer.from_pretrained(folder("bert"), padding_side="top"), "padding_side"),
        (lambda: Tokenizer.from_pretrained(folder("t5"), pad_token=None)("a", padding=True), "pad token"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(AttributeError, match="colour"):
        _ = ours.colour
    with pytest.raises(TypeError, match="from_pretrained"):
        AutoTokenizer()


def test_bad_folders(folder, tmp_path):
    good = folder("bert")
    with pytest.raises(CheckpointError, match="does not exist"):
        Tokenizer.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "vocab.txt").write_text("[UNK]\n")
    with pytest.raises(CheckpointError, match=r"no tokenizer.json, .*; found \['vocab.txt'\]"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(CheckpointError, match="is not a tokenizer"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="cannot read"):
        Tokenizer.from_pretrained(tmp_path)
    shutil.copy(good / "tokenizer.json", tmp_path / "tokenizer.json")
    for content, message in (("{", "is not JSON"), ("[]", "JSON object"), ('{"pad_token": 3}', "pad_token must be")):
        (tmp_path / "tokenizer_config.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert Tokenizer.from_pretrained(tmp_path).tokenize("if") == ["if"]


def test_public_face_loads_folders_and_explains_missing_ids(folder):
    ours = AutoTokenizer.from_pretrained(folder("bert"), local_files_only=True, model_max_length=9)
    assert ours.model_max_length == 9
    assert json.loads(ours.backend_json())["model"]["type"] == "WordPiece"
    with pytest.raises(CheckpointError, match="nobody/nothing"):
        AutoTokenizer.from_pretrained("nobody/nothing", local_files_only=True)
