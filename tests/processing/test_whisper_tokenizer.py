"""Whisper's tokenizer gives what transformers' gives: prefixes, time stamps, normalised and merged transcripts."""

import copy
import json
import pickle

import numpy as np
import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.models.whisper.tokenization_whisper import LANGUAGES as THEIR_LANGUAGES
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from jaxformers.hub.auto_tokenizer import AutoTokenizer
from jaxformers.processing import Tokenizer
from jaxformers.processing.whisper_languages import CODES, LANGUAGES
from tests.processing.compare import (
    ANY_TEXT,
    FRAGMENTS,
    TEXTS,
    assert_same_encoding,
    assert_same_state,
    attempt,
    plain,
)
from tests.processing.languages import LANGUAGES as LANGUAGE_TEXTS
from tests.processing.whisper_zoo import END, SPECIAL, STAMPS, write_whisper

FUZZ = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SENTENCES = [
    "Hello, world!",
    " The colour isn't grey -- “really”?",
    "你好，世界。",
    "Guten Tag (sagte er).",
    " don't you? 🙂",
    " self.value = 3.14",
]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    path = write_whisper(tmp_path_factory.mktemp("whisper"))
    return AutoTokenizer.from_pretrained(path), transformers.AutoTokenizer.from_pretrained(path)


def test_tables():
    assert list(LANGUAGES.items()) == list(THEIR_LANGUAGES.items())
    assert CODES == TO_LANGUAGE_CODE


def test_state(both):
    ours, theirs = both
    assert type(theirs).__name__ == type(ours).__name__ == "WhisperTokenizer"
    assert_same_state(ours, theirs)
    assert ours.timestamp_begin == theirs.convert_tokens_to_ids("<|0.00|>")
    assert ours.timestamp_ids() == theirs.timestamp_ids()
    assert ours.prefix_tokens == theirs.prefix_tokens


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"language": "german", "task": "transcribe"},
        {"language": "Castilian", "task": "translate", "predict_timestamps": True},
        {"language": "yue"},
        {"predict_timestamps": True},
    ],
)
def test_prefixes(options, both, tmp_path):
    folder = write_whisper(tmp_path, **options)
    loaded = [kind.from_pretrained(folder) for kind in (Tokenizer, transformers.AutoTokenizer)]
    switched = [copy.deepcopy(one) for one in both]
    for one in switched:
        one.set_prefix_tokens(**options)
    told = [kind.from_pretrained(both[0].name_or_path, **options) for kind in (Tokenizer, transformers.AutoTokenizer)]
    for ours, theirs in (loaded, switched, told):
        assert ours.prefix_tokens == theirs.prefix_tokens
        for text in (("Hello",), ("Hello", "world"), (["a", "b c"],)):
            mask = {"return_special_tokens_mask": True}
            assert_same_encoding(ours(*text, **mask), theirs(*text, **mask))
        arguments = {"language": "fr", "task": "translate", "no_timestamps": False}
        assert ours.get_decoder_prompt_ids(**arguments) == theirs.get_decoder_prompt_ids(**arguments)
        assert ours("x")["input_ids"] == theirs("x")["input_ids"]
        ours.save_pretrained(tmp_path / "saved")
        for kind in (Tokenizer, transformers.AutoTokenizer):
            again = kind.from_pretrained(tmp_path / "saved")
            assert again("x")["input_ids"] == ours("x")["input_ids"]
            assert again.normalize("colour") == "color"


def test_bad_prefixes(both):
    ours = copy.deepcopy(both[0])
    before = ours("x")["input_ids"]
    with pytest.raises(ValueError, match="does not know the language 'klingon'"):
        ours.set_prefix_tokens(language="klingon")
    with pytest.raises(ValueError, match="tasks are"):
        ours.set_prefix_tokens(task="sing")
    assert ours("x")["input_ids"] == before


def test_prompts(both):
    ours, theirs = both
    for text in (" Hello  ", "你好", "a.b"):
        np.testing.assert_array_equal(ours.get_prompt_ids(text), theirs.get_prompt_ids(text))
    assert isinstance(ours.get_prompt_ids("a", return_tensors=None), list)
    with pytest.raises(ValueError, match=r"special token <\|de\|>"):
        ours.get_prompt_ids("a <|de|>")


def spoken(tokenizer, draw_stamps):
    """Ids as Whisper writes them: words with stamps between them, special tokens here and there."""
    first, special = tokenizer.convert_tokens_to_ids("<|0.00|>"), tokenizer.convert_tokens_to_ids("<|de|>")
    words = st.sampled_from(SENTENCES).map(lambda text: tokenizer(text, add_special_tokens=False)["input_ids"])
    stamp = st.integers(0, 1500).map(lambda i: [first + i])
    extra = st.sampled_from(
        [[special], tokenizer.prefix_tokens, tokenizer.convert_tokens_to_ids(["<|startofprev|>"]), [special + 3]]
    )
    parts = st.one_of(words, extra, *([stamp] * draw_stamps))
    return st.lists(parts, max_size=12).map(lambda found: [i for part in found for i in part])


def test_decodes_like_transformers(both):
    ours, theirs = both
    flags = (
        "skip_special_tokens decode_with_timestamps output_offsets normalize basic_normalize remove_diacritics "
        "clean_up_tokenization_spaces"
    ).split()
    options = st.fixed_dictionaries({}, optional=dict.fromkeys(flags, st.booleans()))

    @FUZZ
    @given(spoken(theirs, 3), options, st.sampled_from([0.02, 0.04]))
    def check(ids, options, precision):
        expected = theirs.decode(ids, time_precision=precision, **options)
        assert ours.decode(np.asarray(ids, int), time_precision=precision, **options) == expected
        if not options.get("output_offsets") and not options.get("skip_special_tokens"):
            batch = [ids, ids[1:]]
            assert ours.batch_decode(batch, **options) == theirs.batch_decode(batch, **options)

    check()


@pytest.mark.parametrize("stamps", [True, False, "word"])
@pytest.mark.parametrize("strides", [True, False])
def test_transcripts(stamps, strides, both):
    ours, theirs = both
    ids = spoken(theirs, 2 if stamps else 0)
    pieces = st.lists(st.tuples(ids, st.integers(0, 8), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=4)

    @FUZZ
    @given(pieces, st.booleans(), st.sampled_from([None, "chinese", "en"]))
    def check(pieces, language, own):
        outputs, before = [], []
        for found, shared, left, right in pieces:
            # what lies in the overlap is heard twice
            tokens = [*before[len(before) - shared :], *found]
            before = found
            output = {"tokens": np.asarray([tokens], int).reshape(1, -1)}
            if stamps == "word":
                output["token_timestamps"] = np.cumsum(np.full((1, len(tokens)), 0.13), -1)
            if strides:
                output["stride"] = (30.0, 5.0 * left, 5.0 * right)
            outputs.append(output)
        arguments = {"return_timestamps": stamps, "return_language": language, "time_precision": 0.02}
        results = []
        for one in (ours, theirs):
            one.language = own
            results.append(attempt(one._decode_asr, outputs, **arguments))
            one.language = None
        assert results[0] == results[1]
        assert results[0] is not None

    check()


WORDS = """one two twenty thirty-five hundred thousand million first twenties fifth ninetieth hundreds point oh zero o
and a half dollars $5 cents £2.50 percent per cent minus plus double triple 3 4.5 1960s 1st 12,000 uh hmm mr. mrs dr.
st prof won't can't y'all i'm she's it's they'd been gone 's got don't colour grey (aside) [noise] <unk> é Œuvre ß ½ ²
1.5 . , ! % ¢ € seven ones tens negative pounds twelve twelfth eleven nineteen 007 1.2.3 and""".split()


def test_normalises_like_transformers(both):
    ours, theirs = both
    texts = st.lists(st.sampled_from(WORDS) | ANY_TEXT, max_size=9).map(" ".join) | TEXTS

    @settings(FUZZ, max_examples=500)
    @given(texts, st.booleans())
    def check(text, accents):
        assert ours.normalize(text) == theirs.normalize(text)
        assert ours.basic_normalize(text, accents) == theirs.basic_normalize(text, accents)

    check()
    assert ours.normalize("Twenty five dollars and three cents, one oh one; the COLOUR isn't grey") == (
        "$25.03 101 the color is not gray"
    )


def test_real_texts_in_many_languages(both):
    ours, theirs = both
    texts = list(LANGUAGE_TEXTS.values())
    options = {"return_offsets_mapping": True, "padding": True}
    assert_same_encoding(ours(texts, **options), theirs(texts, **options))
    ids = theirs(texts)["input_ids"]
    for flags in ({}, {"skip_special_tokens": True}, {"basic_normalize": True}, {"normalize": True}):
        assert ours.batch_decode(ids, **flags) == theirs.batch_decode(ids, **flags)


def test_vocabulary_and_merges_will_do(both, tmp_path):
    folder = write_whisper(tmp_path)
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    added = {token: index for index, token in enumerate([END, *SPECIAL, *STAMPS], len(model["vocab"]))}
    (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    ours, theirs = (kind.from_pretrained(folder) for kind in (AutoTokenizer, transformers.AutoTokenizer))
    assert type(ours) is type(both[0])
    assert_same_state(ours, theirs)
    for text in ("Hello <|de|> <|0.02|>", "".join(FRAGMENTS)):
        assert_same_encoding(ours(text), theirs(text))
        assert ours(text)["input_ids"] == both[0](text)["input_ids"]


def test_a_missing_list_of_spellings_is_an_error(tmp_path):
    folder = write_whisper(tmp_path)
    (folder / "normalizer.json").unlink()
    ours = Tokenizer.from_pretrained(folder)
    with pytest.raises(ValueError, match="no normalizer.json"):
        ours.decode([5], normalize=True)
    assert "normalizer.json" not in ours.vocabulary_files()


def test_copies_and_batches(both):
    ours = both[0]
    text = "".join(FRAGMENTS)
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert plain(twin(text)) == plain(ours(text))
        assert twin.english_spelling_normalizer == ours.english_spelling_normalizer
    prompt = ours.get_prompt_ids("before").tolist()
    ids = [*prompt, *ours("after")["input_ids"]]
    assert ours.decode(ids, skip_special_tokens=True) == "after"
    assert ours.batch_decode([ids], skip_special_tokens=True) == ["after"]  # transformers leaves it in a batch
    assert ours.batch_decode([ids], output_offsets=True) == [ours.decode(ids, output_offsets=True)]
