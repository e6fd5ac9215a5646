"""Every tokenizer of the zoo gives what transformers gives, over texts of every plane and every call option."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
from tests.processing.zoo import ZOO

NAMES = pytest.mark.parametrize("name", ZOO)
FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@NAMES
def test_state(name, pair):
    _, ours, theirs = pair(name)
    assert_same_state(ours, theirs)


@NAMES
def test_encodes_like_transformers(name, pair):
    _, ours, theirs = pair(name)

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


@NAMES
def test_decodes_like_transformers(name, pair):
    _, ours, theirs = pair(name)

    @FUZZ
    @given(TEXTS, st.lists(st.integers(0, len(theirs) - 1), max_size=20))
    def check(text, random_ids):
        assert_same_decoding(ours, theirs, theirs.encode(text))
        assert_same_decoding(ours, theirs, random_ids)

    check()


@NAMES
def test_real_texts_in_many_languages(name, pair):
    _, ours, theirs = pair(name)
    texts = list(LANGUAGES.values())
    options = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "verbose": False}
    found, expected = (one(texts, texts[::-1], **options) for one in (ours, theirs))
    assert_same_encoding(found, expected)
    for ids in expected["input_ids"]:
        assert_same_decoding(ours, theirs, ids)


@NAMES
def test_saved_folder_is_the_same_tokenizer_to_both(name, pair, tmp_path):
    _, ours, theirs = pair(name)
    ours(
        FRAGMENTS[:3], padding=ours.pad_token is not None, truncation=True, max_length=4
    )  # leaves no trace in the files
    ours.save_pretrained(tmp_path)
    for loaded in (Tokenizer.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)):
        assert_same_state(loaded, theirs)
        for text in ("".join(FRAGMENTS), FRAGMENTS):
            assert plain(loaded(text, verbose=False)) == plain(theirs(text, verbose=False))
        assert loaded.decode(theirs.encode("".join(FRAGMENTS))) == theirs.decode(theirs.encode("".join(FRAGMENTS)))


@pytest.mark.parametrize("name", ["bert", "byte-level", "llama"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_sides(name, side, pair):
    _, ours, theirs = (copy.deepcopy(part) for part in pair(name))
    for tokenizer in (ours, theirs):
        tokenizer.padding_side = tokenizer.truncation_side = side
    texts = ["one two three four five six seven eight", "one", ""]
    for options in ({"padding": True}, {"padding": "max_length", "truncation": True, "max_length": 6}):
        assert_same_encoding(ours(texts, **options), theirs(texts, **options))


@pytest.mark.parametrize(
    "name, overrides",
    [
        ("llama", {"add_eos_token": True}),
        ("llama", {"add_bos_token": True, "add_eos_token": True, "padding_side": "right"}),
        ("mistral", {"add_bos_token": False}),
        ("gpt2", {"add_prefix_space": True, "pad_token": "<mine>"}),
        ("bert", {"do_lower_case": False, "strip_accents": False, "model_max_length": 7}),
        ("byte-level", {"split_special_tokens": True}),
        ("byte-level", {"model_input_names": ["input_ids", "token_type_ids"]}),
        ("unigram", {"additional_special_tokens": ["<one>", "<two>"]}),
        ("bert", {"tokenizer_class": None}),
    ],
)
def test_overrides(name, overrides, folder):
    overrides = {key: value for key, value in overrides.items() if value is not None}
    ours = Tokenizer.from_pretrained(folder(name), **overrides)
    theirs = transformers.AutoTokenizer.from_pretrained(folder(name), **overrides)
    assert_same_state(ours, theirs)
    for text in ("".join(FRAGMENTS), "a </s> b <one>x<|eot_id|> ÀÉ"):
        for options in ({}, {"text_pair": "b </s> c"}, {"truncation": True}):
            assert_same_encoding(ours(text, **options, verbose=False), theirs(text, **options, verbose=False))


def test_bos_and_eos_can_be_switched(pair):
    _, ours, theirs = (copy.deepcopy(part) for part in pair("llama"))
    for bos, eos in ((True, True), (False, True), (False, False), (True, False)):
        for tokenizer in (ours, theirs):
            tokenizer.add_bos_token, tokenizer.add_eos_token = bos, eos
        assert_same_encoding(ours("one two", "three"), theirs("one two", "three"))


def test_tokens_can_be_added(folder, tmp_path):
    ours = Tokenizer.from_pretrained(folder("byte-level"))
    theirs = transformers.AutoTokenizer.from_pretrained(folder("byte-level"))
    for tokenizer in (ours, theirs):
        assert tokenizer.add_tokens(["<new>", transformers.AddedToken("wide", lstrip=True, rstrip=True)]) == 2
        assert tokenizer.add_tokens("<new>") == 0
        assert tokenizer.add_special_tokens({"cls_token": "<cls>", "extra_special_tokens": ["<e1>", "<e2>"]}) == 3
        tokenizer.add_special_tokens({"extra_special_tokens": ["<e3>"]}, replace_extra_special_tokens=False)
        tokenizer.sep_token = "<e1>"
        tokenizer.mask_token_id = 5
    assert_same_state(ours, theirs)
    text = "a <new>b wide c<cls><e2>d"
    assert_same_encoding(ours(text), theirs(text))
    assert ours.additional_special_tokens == ours.extra_special_tokens
    assert ours.additional_special_tokens_ids == theirs.extra_special_tokens_ids
    ours.save_pretrained(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert_same_state(Tokenizer.from_pretrained(tmp_path), loaded)
    assert loaded(text)["input_ids"] == ours(text)["input_ids"]


def test_own_truncation_and_padding_of_the_file_do_not_apply(pair, tmp_path):
    _, ours, _ = pair("bert-lengths")
    long, short = "if " * 40, "if"
    assert len(ours(long, verbose=False)["input_ids"]) == 42
    assert len(ours(short)["input_ids"]) == 3
    ours(long, truncation=True, max_length=5)
    ours([long, short], padding=True, truncation=True)
    assert len(ours(long, verbose=False)["input_ids"]) == 42
    ours.save_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path)._file_truncation["max_length"] == 12
    assert Tokenizer.from_pretrained(tmp_path)._file_padding["length"] == 16


def test_threads_do_not_share_settings(pair):
    _, ours, _ = pair("bert")
    calls = [{}, {"truncation": True, "max_length": 4}, {"padding": "max_length", "max_length": 30}, {"padding": True}]
    texts = ["one two three four five six seven", "one"]
    expected = [plain(ours(texts, **options)) for options in calls]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: plain(ours(texts, **calls[i % 4])), range(400)))
    assert all(found[i] == expected[i % 4] for i in range(400))


def test_copies_and_pickles(pair):
    _, ours, _ = pair("qwen")
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert_same_state(twin, ours)
        assert plain(twin("".join(FRAGMENTS))) == plain(ours("".join(FRAGMENTS)))
    assert ours.image_token == "<|image_pad|>"
    assert ours.image_token_id == len(ours) - 1


def test_targets_and_single_files(pair):
    folder, ours, theirs = pair("t5")
    options = {"text_target": "three four five", "max_length": 6, "max_target_length": 3, "truncation": True}
    assert plain(ours("one two", **options)) == plain(theirs("one two", **options))
    assert plain(ours(text_target="one")) == plain(theirs(text_target="one"))
    assert ours.tokenize("one two", add_special_tokens=True) == theirs.tokenize("one two", add_special_tokens=True)
    alone = Tokenizer.from_pretrained(folder / "tokenizer.json")
    expected = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    assert_same_encoding(alone("one two 🙂"), expected("one two 🙂"))
