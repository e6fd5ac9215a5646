"""Tokenizers that are SentencePiece itself: piece for piece, character for character what sentencepiece gives."""

import json
import warnings
from functools import cache

import pytest
import sentencepiece
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxformers.core.errors import CheckpointError
from jaxformers.processing import Tokenizer
from jaxformers.processing.sentencepiece_alphabet import SentencePieces
from tests.processing.compare import FRAGMENTS, INPUTS, OPTIONS, TEXTS, assert_same_state, attempt, plain
from tests.processing.languages import LANGUAGES
from tests.processing.vocabularies import T5, sentencepiece_file

FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MODELS = {
    "plain": {},
    "symbols": {"user_defined_symbols": "<tool>,[ONE],xx"},
    "case": {"normalization_rule_name": "nfkc_cf", "remove_extra_whitespaces": False},
    "bytes": {"byte_fallback": True, "add_dummy_prefix": False, "vocab_size": 700},
    "suffix": {"treat_whitespace_as_suffix": True, "normalization_rule_name": "identity"},
}
# What transformers' slow tokenizers do not have, count before padding, or mark by other rules.
OURS = ("return_offsets_mapping", "return_length", "return_overflowing_tokens", "stride")
OURS += ("return_special_tokens_mask", "return_token_type_ids")


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_pieces_offsets_and_text(options):
    data = sentencepiece_file("unigram", **options)
    ours, theirs = SentencePieces(data), sentencepiece.SentencePieceProcessor(model_proto=data)

    def check(text):
        found = list(ours.pieces(text))
        expected = theirs.encode(text, out_type="proto").pieces
        assert [token for token, _, _ in found] == [piece.piece for piece in expected]
        place = [len(text.encode()[:i].decode("utf-8", "ignore")) for i in range(len(text.encode()) + 1)]
        spans = [(place[piece.begin], place[piece.end]) for piece in expected]
        if not ours.model.byte_fallback and not ours.model.treat_whitespace_as_suffix:
            assert [(first, last) for _, first, last in found] == spans
        tokens = [token for token, _, _ in found]
        assert ours.text_of(tokens) == theirs.decode_pieces(tokens)

    for text in [*FRAGMENTS, *LANGUAGES.values(), "".join(FRAGMENTS), "x" * 300, "ab" * 200]:
        check(text)
    FUZZ(given(TEXTS)(check))()

    @FUZZ
    @given(st.lists(st.sampled_from([piece.text for piece in ours.model.pieces]), max_size=10))
    def decode(tokens):
        assert ours.text_of(tokens) == theirs.decode_pieces(tokens)

    decode()


def marian(folder, separate=False):
    source = sentencepiece_file("unigram")
    target = sentencepiece_file("unigram", vocab_size=300, user_defined_symbols="<tool>")
    pieces = [SentencePieces(data).ids for data in (source, target)]
    words = [["</s>", "<unk>", *list(ids)[5:], ">>fra<<", ">>de<<", "<pad>"] for ids in pieces]
    words[0] = words[0] if separate else [*words[0][:-1], *(w for w in words[1] if w not in words[0]), "<pad>"]
    (folder / "source.spm").write_bytes(source)
    (folder / "target.spm").write_bytes(target)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(words[0])}))
    config = {"source_lang": "en", "target_lang": "de", "separate_vocabs": separate}
    if separate:
        (folder / "target_vocab.json").write_text(json.dumps({token: i for i, token in enumerate(words[1])}))
    return config | {"tokenizer_class": "MarianTokenizer"}, "marian"


def siglip(folder, **config):
    (folder / "spiece.model").write_bytes(sentencepiece_file("unigram", **T5))
    return {"tokenizer_class": "SiglipTokenizer", **config}, "siglip"


KINDS = {
    "marian": marian,
    "marian-separate": lambda folder: marian(folder, separate=True),
    "siglip": siglip,
    "siglip-capitals": lambda folder: siglip(folder, do_lower_case=False, additional_special_tokens=["<tool>"]),
}
NAMES = pytest.mark.parametrize("name", KINDS)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    @cache
    def load(name):
        folder = tmp_path_factory.mktemp(name)
        config, model_type = KINDS[name](folder)
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        return Tokenizer.from_pretrained(folder), quietly(transformers.AutoTokenizer.from_pretrained, folder)

    return load


def quietly(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


@NAMES
def test_state(name, both):
    ours, theirs = both(name)
    assert type(ours).__name__ == type(theirs).__name__
    assert_same_state(ours, theirs)


@NAMES
def test_encodes_like_transformers(name, both):
    ours, theirs = both(name)

    @FUZZ
    @given(INPUTS, OPTIONS)
    def check(inputs, options):
        options = {key: value for key, value in options.items() if key not in OURS}
        expected, found = (quietly(attempt, one, **inputs, **options) for one in (theirs, ours))
        if found is not None and expected is not None:
            assert plain(found) == plain(expected)
        elif expected is not None:
            rows = expected["input_ids"]
            rows = [rows] if not rows or isinstance(rows[0], int) else rows
            assert options.get("max_length") is not None and max(map(len, rows)) > options["max_length"] or not rows[0]

    check()
    for text in [*LANGUAGES.values(), "".join(FRAGMENTS), ">>fra<< a", ">>fra<<>>de<< b", ">>x<<", "a</s> b <pad>c"]:
        assert ours(text)["input_ids"] == quietly(theirs, text)["input_ids"]


@NAMES
def test_decodes_like_transformers(name, both):
    ours, theirs = both(name)
    last = len(ours) - 1 if "separate" not in name else len(ours._backend.model.target_ids) - 1

    @FUZZ
    @given(st.lists(st.integers(0, last), max_size=16), st.booleans())
    def check(ids, skip):
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
        if name.startswith("marian"):
            for source in (True, False):
                options = {"skip_special_tokens": skip, "use_source_tokenizer": source}
                assert ours.decode(ids, **options) == theirs.decode(ids, **options)

    check()


@pytest.mark.parametrize("name", ["marian", "marian-separate"])
def test_targets(name, both):
    ours, theirs = both(name)
    texts, targets = list(LANGUAGES.values())[:8], list(LANGUAGES.values())[8:16]
    options = {"text_target": targets, "max_length": 20, "max_target_length": 12, "truncation": True}
    expected = theirs(texts, **options)
    assert plain(ours(texts, **options)) == plain(expected)
    assert plain(ours(text_target=targets)) == plain(theirs(text_target=targets))
    assert ours(texts)["input_ids"] == theirs(texts)["input_ids"]
    assert ours.supported_language_codes == theirs.supported_language_codes


def test_offsets_point_into_the_text(both):
    for name in ("marian", "siglip", "siglip-capitals"):
        ours = both(name)[0]
        text = "  Two  RED houses,</s> and one."
        batch = ours(text, return_offsets_mapping=True)
        for token, (start, end) in zip(
            ours.convert_ids_to_tokens(batch["input_ids"]), batch["offset_mapping"], strict=True
        ):
            assert 0 <= start <= end <= len(text)
            letters = token.strip("▁").lower()
            assert letters in text[start:end].lower() or token in ("<unk>", "</s>")


@NAMES
def test_saved_folder_is_the_same_tokenizer_to_both(name, both, tmp_path):
    ours, theirs = both(name)
    ours.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": name.split("-")[0]}))
    for loaded in (Tokenizer.from_pretrained(tmp_path), quietly(transformers.AutoTokenizer.from_pretrained, tmp_path)):
        assert_same_state(loaded, theirs)
        for text in LANGUAGES.values():
            assert loaded(text)["input_ids"] == theirs(text)["input_ids"]


@pytest.mark.parametrize("name, file", [("marian", "target.spm"), ("marian", "vocab.json"), ("siglip", "spiece.model")])
def test_missing_and_damaged_files(name, file, tmp_path):
    config, _ = KINDS[name](tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / file).write_bytes(b"\x0a")
    with pytest.raises(CheckpointError, match=file):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(CheckpointError, match=file):
        Tokenizer.from_pretrained(tmp_path)


def test_byte_pairs_are_refused(tmp_path):
    config, _ = siglip(tmp_path)
    (tmp_path / "spiece.model").write_bytes(sentencepiece_file("bpe"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="unigram"):
        Tokenizer.from_pretrained(tmp_path)
