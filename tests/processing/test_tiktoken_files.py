"""tiktoken files give the ids that tiktoken gives."""

import pytest
import tiktoken
from hypothesis import given, settings
from tokenizers import pre_tokenizers

from jaxformers.core.errors import CheckpointError
from jaxformers.processing.tiktoken_files import (
    LLAMA3_SPLIT,
    SPLITS,
    _byte_letters,
    is_tiktoken,
    read_ranks,
    tiktoken_backend,
)
from tests.processing.compare import TEXTS
from tests.processing.languages import LANGUAGES
from tests.processing.vocabularies import tiktoken_file


@pytest.mark.parametrize("model_type", ["gpt2", "qwen2", "gpt_oss", "llama"])
def test_ids(model_type, tmp_path):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(tiktoken_file())
    ours = tiktoken_backend(file, model_type)
    pattern = SPLITS.get(model_type, LLAMA3_SPLIT)
    theirs = tiktoken.Encoding("test", pat_str=pattern, mergeable_ranks=read_ranks(file), special_tokens={})

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(TEXTS)
    def check(text):
        assert ours.encode(text).ids == theirs.encode_ordinary(text)

    check()
    for text in LANGUAGES.values():
        ids = ours.encode(text).ids
        assert ids == theirs.encode_ordinary(text)
        assert ours.decode(ids) == text


def test_letters_of_bytes():
    assert sorted(_byte_letters()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    for byte in range(0x80):
        encoded = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(chr(byte))
        assert encoded[0][0] == _byte_letters()[byte]


@pytest.mark.parametrize("content", [b"IQ== 0\nIg==\n", b"IQ== 0\n!! 1\n", b"IQ== 0\nIg== one\n", b"IQ== 0\n"])
def test_damaged_lines(content, tmp_path):
    file = tmp_path / "x.tiktoken"
    file.write_bytes(content)
    assert is_tiktoken(file)
    with pytest.raises(CheckpointError, match="x.tiktoken"):
        read_ranks(file)
