"""The backend in Python does what `tokenizers` does, compared on a vocabulary of characters that both can express."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors

from jaxformers.processing.added_tokens import AddedTokens
from jaxformers.processing.canine import CodePoints
from jaxformers.processing.python_backend import Ends, PythonBackend
from tests.processing.compare import attempt

LETTERS = "abcdefg hé🙂,"
CLS, SEP, TOOL = "\ue000", "\ue001", "<t>"
ATTRIBUTES = "ids tokens offsets type_ids special_tokens_mask attention_mask sequence_ids n_sequences".split()


def in_rust(kind: int) -> Tokenizer:
    """Characters as words, with one token in front and one behind each text."""
    vocabulary = {letter: ord(letter) for letter in [*LETTERS, CLS, SEP]}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS}:0 $A:0 {SEP}:0",
        pair=f"{CLS}:0 $A:0 {SEP}:0 $B:{kind} {SEP}:{kind}",
        special_tokens=[(CLS, ord(CLS)), (SEP, ord(SEP))],
    )
    return tokenizer


def in_python(kind: int) -> PythonBackend:
    """The same in Python."""
    backend = PythonBackend(CodePoints(), {ord(mark): AddedToken(mark) for mark in (CLS, SEP)})
    backend.ends = Ends((ord(CLS),), (ord(SEP),), (ord(SEP),), kind)
    return backend


TEXTS = st.text(LETTERS, max_size=14)
ROWS = st.lists(TEXTS, min_size=1, max_size=3) | st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3)
WORDS = st.lists(st.text(LETTERS, min_size=1, max_size=4), min_size=1, max_size=4)
CUTS = st.fixed_dictionaries(
    {
        "max_length": st.integers(2, 14),
        "stride": st.integers(0, 4),
        "strategy": st.sampled_from(["longest_first", "only_first", "only_second"]),
        "direction": st.sampled_from(["left", "right"]),
    }
)
PADS = st.fixed_dictionaries(
    {
        "length": st.none() | st.integers(1, 20),
        "direction": st.sampled_from(["left", "right"]),
        "pad_id": st.just(0),
        "pad_token": st.just("[PAD]"),
        "pad_type_id": st.just(0),
        "pad_to_multiple_of": st.sampled_from([None, 1, 4]),
    }
)


def look(encoding):
    """All that an encoding holds, and the rows that truncation cut off."""
    rows = [encoding, *encoding.overflowing]
    return [{name: getattr(row, name) for name in ATTRIBUTES} for row in rows]


@pytest.mark.parametrize("kind", [0, 1])
@settings(max_examples=250, deadline=None, derandomize=True)
@given(rows=ROWS, cut=st.none() | CUTS, pad=st.none() | PADS, special=st.booleans())
def test_rows(kind, rows, cut, pad, special):
    def encode(backend):
        if cut:
            backend.enable_truncation(**cut)
        if pad:
            backend.enable_padding(**pad)
        return backend.encode_batch(rows, add_special_tokens=special)

    expected, found = (attempt(encode, backend) for backend in (in_rust(kind), in_python(kind)))
    if cut and cut["strategy"] == "only_second" and isinstance(rows[0], str):
        return  # here `tokenizers` refuses most texts, and transformers leaves them whole
    if found is None or expected is None:
        # `tokenizers` refuses a stride too large for texts it does not cut, and to leave nothing of a text
        bare = any({0, 1} - set(row.sequence_ids) for row in found or ())
        assert found is None and expected is None or bare or cut["stride"] >= cut["max_length"] - 3
        return
    for mine, other in zip(found, expected, strict=True):
        pair = isinstance(rows[0], tuple)
        if pair and cut and cut["strategy"] == "longest_first":
            assert len(mine) == len(other)  # each has its own way to share what to cut
            continue
        mine_rows, other_rows = look(mine), look(other)
        if not special:  # transformers' tokenizers in Python number texts by their ends
            for row in [*mine_rows, *other_rows]:
                row.pop("type_ids")
        assert mine_rows == other_rows


@pytest.mark.parametrize("text", ["ab \U0001f642 h\xe9,", "", "a"])
def test_maps(text):
    expected, found = (one.encode_batch([(text, "b" + text)])[0] for one in (in_rust(1), in_python(1)))
    for sequence in (0, 1):
        for at in range(len(text) + 3):
            assert found.char_to_token(at, sequence) == expected.char_to_token(at, sequence)
    for token in range(len(found) + 2):
        assert found.token_to_chars(token) == (expected.token_to_chars(token) if token < len(found) else None)
        assert found.token_to_sequence(token) == (expected.token_to_sequence(token) if token < len(found) else None)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text("abt<> \n", max_size=12), st.booleans(), st.booleans())
def test_added_tokens_are_found_as_in_rust(text, left, right):
    tokens = [AddedToken("<t>", lstrip=left, rstrip=right, normalized=False), AddedToken("<tb>", normalized=False)]
    rust = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    rust.add_tokens(tokens)
    found = AddedTokens(rust.get_added_tokens_decoder()).cut(text)
    spans = [(start, end) for start, end, index in found if index is not None]
    expected = [span for span, index in zip(rust.encode(text).offsets, rust.encode(text).ids, strict=True) if index]
    # `tokenizers` counts the blanks it swallows as a part of the token
    assert [text[start:end] for start, end in spans] == [text[start:end].strip() for start, end in expected]


def test_whole_words():
    added = AddedTokens({7: AddedToken("word", single_word=True)})
    for text, whole in (("a word b", True), ("sword", False), ("words", False), ("word", True), ("word!", False)):
        assert any(index == 7 for _, _, index in added.cut(text)) is whole
    added.set(8, AddedToken("s"))
    added.remove([7])
    assert list(added.cut("words")) == [(0, 4, None), (4, 5, 8)]
