"""Comparison of our tokenizers with transformers', and the texts to compare them on."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.processing.zoo import BERT, CHAT, END, SENTENCE

SPECIAL = [
    "<late>",
    *BERT,
    *SENTENCE,
    *CHAT,
    END,
    "<0x41>",
    "<tool>",
    "<extra_id_3>",
    "<|begin_of_text|>",
    "<bos>",
    "word",
]
SPACES = [" ", "  ", "   \t ", "\n", "\n\n", "\r\n", "\u00a0", "\u3000", "\u2028", "\u200b", "\ufeff"]
CONTROL = ["\x00", "\x7f", "\u200d", "\ufffd", "\U000e0041", "\U0010fffd", "\u202eمرحبا\u202c"]
SCRIPTS = ["שלום", "नमस्ते", "ไทย", "漢字かな交じり", "한국어", "ﬁ", "Ⅷ", "ß", "İ", "e\u0301\u0323", "𝔘𝔫𝔦"]
EMOJI = ["🙂", "👩\u200d👩\u200d👧", "🏳️\u200d🌈", "\U0001f1e9\U0001f1ea"]
PROSE = [
    "don't",
    "we've",
    "I'm",
    "def f(self, x=1):",
    "return self.value",
    "3.14159",
    "x" * 120,
    "a.b,c ; d !",
    "Hello",
]
FRAGMENTS = [*SPECIAL, *SPACES, *CONTROL, *SCRIPTS, *EMOJI, *PROSE]
ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)  # every plane; lone surrogates are no text
TEXTS = st.lists(st.sampled_from(FRAGMENTS) | ANY_TEXT | st.just(" "), max_size=8).map("".join)
WORDS = st.lists(st.sampled_from(FRAGMENTS) | ANY_TEXT, min_size=1, max_size=6)
INPUTS = st.one_of(
    TEXTS.map(lambda text: {"text": text}),
    st.tuples(TEXTS, TEXTS).map(lambda texts: {"text": texts[0], "text_pair": texts[1]}),
    st.lists(TEXTS, min_size=1, max_size=3).map(lambda texts: {"text": texts}),
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3).map(lambda pairs: {"text": pairs}),
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3).map(
        lambda pairs: {"text": [a for a, _ in pairs], "text_pair": [b for _, b in pairs]}
    ),
    WORDS.map(lambda words: {"text": words, "is_split_into_words": True}),
    st.lists(WORDS, min_size=1, max_size=3).map(lambda rows: {"text": rows, "is_split_into_words": True}),
)
FLAGS = (
    "return_overflowing_tokens",
    "return_special_tokens_mask",
    "return_offsets_mapping",
    "return_length",
)
OPTIONS = st.fixed_dictionaries(
    {"verbose": st.just(False)},
    optional={
        "add_special_tokens": st.booleans(),
        "padding": st.sampled_from([True, False, "longest", "max_length", "do_not_pad"]),
        "truncation": st.sampled_from([True, False, "longest_first", "only_first", "only_second", "do_not_truncate"]),
        "max_length": st.integers(0, 24),
        "stride": st.integers(0, 3),
        "pad_to_multiple_of": st.sampled_from([1, 3, 8]),
        "padding_side": st.sampled_from(["left", "right"]),
        "return_token_type_ids": st.booleans(),
        "return_attention_mask": st.booleans(),
        "split_special_tokens": st.booleans(),
        **dict.fromkeys(FLAGS, st.booleans()),
    },
)


def attempt(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the result, or None if the call is refused; the backend's panics are no Exception."""
    try:
        return function(*args, **kwargs)
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        return None


def assert_same_encoding(ours: Any, theirs: Any) -> None:
    """Every input, and every map between tokens, words and characters, is equal."""
    assert plain(ours) == plain(theirs)
    assert list(ours) == list(theirs)
    for row, (mine, other) in enumerate(zip(ours.encodings, theirs.encodings, strict=True)):
        assert ours.tokens(row) == theirs.tokens(row)
        assert ours.word_ids(row) == theirs.word_ids(row)
        assert ours.sequence_ids(row) == theirs.sequence_ids(row)
        assert mine.offsets == other.offsets
        assert mine.special_tokens_mask == other.special_tokens_mask
    assert ours.n_sequences == theirs.n_sequences


def plain(batch: Any) -> dict[str, Any]:
    """A batch as lists, whatever arrays it holds."""
    return {key: np.asarray(value).tolist() if hasattr(value, "dtype") else value for key, value in batch.items()}


def assert_same_decoding(ours: Any, theirs: Any, ids: list[int]) -> None:
    """The ids give the same text and tokens with every option."""
    for skip in (False, True):
        for clean in (None, False, True):
            options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
            assert ours.decode(ids, **options) == theirs.decode(ids, **options)
        assert ours.convert_ids_to_tokens(ids, skip) == theirs.convert_ids_to_tokens(ids, skip)
    tokens = ours.convert_ids_to_tokens(ids)
    assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
    assert ours.convert_tokens_to_string(tokens) == theirs.convert_tokens_to_string(tokens)


def assert_same_state(ours: Any, theirs: Any) -> None:
    """Vocabulary, special tokens and settings are equal."""
    assert len(ours) == len(theirs)
    assert ours.vocab_size == theirs.vocab_size
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.all_special_ids == theirs.all_special_ids
    assert ours.extra_special_tokens == theirs.extra_special_tokens
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"):
        assert getattr(ours, f"{name}_token") == getattr(theirs, f"{name}_token")
        assert getattr(ours, f"{name}_token_id") == getattr(theirs, f"{name}_token_id")
    for name in ("model_max_length", "padding_side", "truncation_side", "model_input_names", "pad_token_type_id"):
        assert getattr(ours, name) == getattr(theirs, name)
    for two in (False, True):
        assert ours.num_special_tokens_to_add(two) == theirs.num_special_tokens_to_add(two)
    mine = {index: repr(token) for index, token in ours.added_tokens_decoder.items()}
    assert mine == {index: repr(token) for index, token in theirs.added_tokens_decoder.items()}
