"""Folders without tokenizer.json give what transformers' classes give, and are saved as what both load."""

from functools import cache

import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from transformers.utils import logging

from jaxformers.core.errors import CheckpointError
from jaxformers.processing import Tokenizer
from tests.processing.compare import (
    FRAGMENTS,
    INPUTS,
    OPTIONS,
    TEXTS,
    assert_same_decoding,
    assert_same_encoding,
    assert_same_state,
    attempt,
    plain,
)
from tests.processing.languages import LANGUAGES
from tests.processing.vocabularies import FOLDERS, write_folder

logging.set_verbosity_error()
NAMES = pytest.mark.parametrize("name", FOLDERS)
FUZZ = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A function from a folder's name to the tokenizer in both libraries."""
    root = tmp_path_factory.mktemp("vocabularies")

    @cache
    def load(name):
        path = write_folder(root / name, FOLDERS[name])
        return Tokenizer.from_pretrained(path), transformers.AutoTokenizer.from_pretrained(path)

    return load


@NAMES
def test_state(name, both):
    assert_same_state(*both(name))


@NAMES
def test_languages(name, both):
    ours, theirs = both(name)
    texts = [*LANGUAGES.values(), "".join(FRAGMENTS)]
    expected = theirs(texts, verbose=False)
    assert_same_encoding(ours(texts, verbose=False), expected)
    for ids in expected["input_ids"]:
        assert_same_decoding(ours, theirs, ids)


@NAMES
def test_any_text_and_any_option(name, both):
    ours, theirs = both(name)

    @FUZZ
    @given(INPUTS, OPTIONS)
    def check(inputs, options):
        expected = attempt(theirs, **inputs, **options)
        found = attempt(ours, **inputs, **options)
        if expected is None:
            assert found is None
        else:
            assert_same_encoding(found, expected)

    check()


@pytest.mark.slow
@NAMES
def test_many_texts(name, both):
    ours, theirs = both(name)

    @settings(FUZZ, max_examples=200)
    @given(TEXTS)
    def check(text):
        expected = theirs(text, verbose=False, return_offsets_mapping=True)
        assert plain(ours(text, verbose=False, return_offsets_mapping=True)) == plain(expected)
        assert ours.decode(expected["input_ids"]) == theirs.decode(expected["input_ids"])

    check()


@NAMES
def test_saved_folder_is_the_same_tokenizer_to_both(name, both, tmp_path):
    ours, theirs = both(name)
    ours.save_pretrained(tmp_path)
    texts = [*LANGUAGES.values(), "".join(FRAGMENTS)]
    expected = plain(theirs(texts, verbose=False))
    for loaded in (Tokenizer.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)):
        assert plain(loaded(texts, verbose=False)) == expected
        assert loaded.decode(expected["input_ids"][-1]) == theirs.decode(expected["input_ids"][-1])


@pytest.mark.parametrize(
    "name, overrides",
    [
        ("bert", {"do_lower_case": False, "tokenize_chinese_chars": False}),
        ("llama", {"add_eos_token": True, "add_prefix_space": False, "legacy": True}),
        ("gpt2", {"add_prefix_space": True, "pad_token": "<mine>"}),
        ("albert", {"keep_accents": True}),
        ("gemma", {"add_bos_token": False, "additional_special_tokens": ["<one>", "<two>"]}),
        ("mistral", {"add_bos_token": False, "add_eos_token": True}),
        ("t5", {"extra_ids": 3}),
    ],
)
def test_overrides(name, overrides, tmp_path):
    path = write_folder(tmp_path, FOLDERS[name])
    ours = Tokenizer.from_pretrained(path, **overrides)
    theirs = transformers.AutoTokenizer.from_pretrained(path, **overrides)
    assert_same_state(ours, theirs)
    texts = [*LANGUAGES.values(), "".join(FRAGMENTS), "a <one>b"]
    assert_same_encoding(ours(texts, verbose=False), theirs(texts, verbose=False))


@pytest.mark.parametrize("model_type", ["granite", "olmo2", "modernbert"])
def test_named_class_reads_the_files_of_types_without_rules(model_type, tmp_path, both):
    """transformers needs tokenizer.json for these."""
    write_folder(tmp_path, FOLDERS["gpt2"])
    (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    with pytest.raises(CheckpointError, match="tokenizer_class="):
        Tokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.from_pretrained(tmp_path, tokenizer_class="GPT2Tokenizer")
    for text in LANGUAGES.values():
        assert plain(ours(text, verbose=False)) == plain(both("gpt2")[1](text, verbose=False))


def test_class_file_under_another_name(tmp_path, both):
    path = write_folder(tmp_path, FOLDERS["t5"])
    (path / "spiece.model").rename(path / "mt5.model")
    ours, theirs = Tokenizer.from_pretrained(path), both("t5")[1]
    assert_same_state(ours, theirs)


@pytest.mark.parametrize(
    "name, remove, message",
    [
        ("bert", "vocab.txt", "needs vocab.txt; found"),
        ("gpt2", "merges.txt", "needs merges.txt; found"),
        ("roberta", "vocab.json", "needs vocab.json; found"),
        ("t5", "spiece.model", "needs spiece.model; found"),
        ("phi3", "tokenizer.model", "needs tokenizer.model or tiktoken.model; found"),
    ],
)
def test_missing_files(name, remove, message, tmp_path):
    path = write_folder(tmp_path, FOLDERS[name])
    (path / remove).unlink()
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.from_pretrained(path)


@pytest.mark.parametrize(
    "name, file, content",
    [
        ("bert", "vocab.txt", b"\xff\xfe"),
        ("gpt2", "vocab.json", b"{"),
        ("gpt2", "vocab.json", b'{"a": "b"}'),
        ("gpt2", "merges.txt", b"one two three\n"),
        ("gpt2", "merges.txt", b"one two\n"),
        ("albert", "spiece.model", b""),
        ("albert", "spiece.model", b"\x0a\x05abc"),
        ("mistral", "tokenizer.model", b"IQ== 0\nIg== x\n"),
        ("mistral", "tokenizer.model", b"IQ== 0\nIg== 1\n"),
        (
            "t5",
            "tokenizer_config.json",
            b'{"extra_ids": 10, "tokenizer_class": "XLMRobertaTokenizer", "mask_token": 3}',
        ),
    ],
)
def test_damaged_files(name, file, content, tmp_path):
    path = write_folder(tmp_path, FOLDERS[name])
    (path / file).write_bytes(content)
    with pytest.raises(CheckpointError):
        Tokenizer.from_pretrained(path)


def test_sentinels_that_do_not_agree(tmp_path):
    path = write_folder(tmp_path, FOLDERS["t5"])
    from tests.processing.vocabularies import T5, unigram

    (path / "spiece.model").write_bytes(unigram(**T5, user_defined_symbols="<extra_id_0>")())
    with pytest.raises(CheckpointError, match="extra_ids"):
        Tokenizer.from_pretrained(path)
