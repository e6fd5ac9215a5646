"""The reader of SentencePiece files agrees with protobuf, and refuses what is damaged."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2 as protobuf
from tokenizers import normalizers

from jaxformers.core.errors import CheckpointError
from jaxformers.processing.charsmap import check_charsmap
from jaxformers.processing.sentencepiece import read_sentencepiece
from jaxformers.processing.sentencepiece_backend import bare_backend, load_sentencepiece, plain_backend, vocabulary_of
from tests.processing.languages import LANGUAGES
from tests.processing.vocabularies import ALBERT, DEBERTA, sentencepiece_file

FUZZ = settings(max_examples=300, deadline=None, derandomize=True)
MODELS = {
    "unigram": ("unigram", {}),
    "replacements": ("unigram", {**ALBERT, "normalization_rule_name": "nfkc_cf"}),
    "names": ("unigram", DEBERTA),
    "blanks": ("bpe", {"add_dummy_prefix": False, "remove_extra_whitespaces": False, "unk_surface": " ? "}),
    "bytes": ("bpe", {"byte_fallback": True, "vocab_size": 900, "treat_whitespace_as_suffix": True}),
    "words": ("word", {}),
    "characters": ("char", {"normalization_rule_name": "identity", "user_defined_symbols": "<a>,<b>"}),
}


def assert_same_model(ours, theirs):
    trainer, normalizer = theirs.trainer_spec, theirs.normalizer_spec
    mine = [(piece.text, piece.score, piece.kind) for piece in ours.pieces]
    assert mine == [(piece.piece, piece.score, piece.type) for piece in theirs.pieces]
    assert ours.algorithm == trainer.model_type
    assert ours.charsmap == normalizer.precompiled_charsmap
    for name in "treat_whitespace_as_suffix byte_fallback unk_id bos_id eos_id pad_id unk_surface unk_piece".split():
        assert getattr(ours, name) == getattr(trainer, name)
    for name in ("bos_piece", "eos_piece", "pad_piece"):
        assert getattr(ours, name) == getattr(trainer, name)
    for name in ("add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces"):
        assert getattr(ours, name) == getattr(normalizer, name)


@pytest.mark.parametrize("kind, options", MODELS.values(), ids=MODELS)
def test_trained_models(kind, options):
    data = sentencepiece_file(kind, **options)
    assert_same_model(read_sentencepiece(data), protobuf.ModelProto.FromString(data))


def small_model() -> bytes:
    """A model of a few pieces with every field that is read, so that mutations hit them."""
    model = protobuf.ModelProto()
    for text, score, kind in (("<unk>", 0, 2), ("<s>", 0, 3), ("▁a", -1.5, 1), ("<0x00>", 0, 6), ("né", -2, 4)):
        model.pieces.add(piece=text, score=score, type=kind)
    spec = model.trainer_spec
    spec.model_type, spec.byte_fallback, spec.unk_id, spec.bos_id, spec.eos_id = 2, True, 0, 1, -1
    spec.unk_surface, spec.unk_piece, spec.vocab_size = "⁇", "<unk>", 5
    spec.input.append("corpus.txt")
    spec.character_coverage = 0.9995
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    return model.SerializeToString()


@st.composite
def mutated(draw):
    data = bytearray(small_model())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        change = draw(st.sampled_from(["set", "cut", "insert", "repeat"]))
        if change == "set":
            data[at] = draw(st.integers(0, 255))
        elif change == "cut":
            del data[at : at + draw(st.integers(1, 8))]
        elif change == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=4))
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 20))]
        if not data:
            break
    return bytes(data)


@FUZZ
@given(mutated() | st.binary(max_size=60))
def test_damaged_bytes_are_refused_or_read_as_protobuf_reads_them(data):
    try:
        ours = read_sentencepiece(data)
    except ValueError:
        return
    assert_same_model(ours, protobuf.ModelProto.FromString(data))


@FUZZ
@given(mutated())
def test_what_is_read_makes_a_backend_or_a_clear_error(data):
    try:
        model = read_sentencepiece(data)
    except ValueError:
        return
    if model.charsmap:
        return  # the next test's
    for make in (lambda: bare_backend("Unigram", model, vocabulary_of(model)), lambda: plain_backend(model, {})):
        try:
            backend = make()
        except Exception:  # what vocabulary_files turns into CheckpointError; a panic of the backend is no Exception
            continue
        for text in LANGUAGES.values():
            try:
                backend.encode(text)
            except Exception as error:
                assert "unk" in str(error).lower()


@pytest.fixture(scope="module")
def small_table(tmp_path_factory):
    """A table of a few replacements, so that mutations hit the units in use."""
    rules = tmp_path_factory.mktemp("rules") / "rules.tsv"
    lines = ("41\t61", "41 42\t62 63", "df\t73 73", "1f642\t3a 29", "3b1 301\t3ac", "200b\t")
    rules.write_text("".join(f"{line}\n" for line in lines))
    return read_sentencepiece(sentencepiece_file("unigram", normalization_rule_tsv=str(rules))).charsmap


def test_damaged_replacements_are_refused_or_harmless(small_table):
    size = int.from_bytes(small_table[:4], "little")
    text = "AB ABA ß 🙂 ά \u200b" + "".join(map(chr, range(1, 0x3000)))
    outcomes = set()

    @settings(FUZZ, max_examples=400)
    @given(st.data())
    def check(data):
        table = bytearray(small_table)
        for _ in range(data.draw(st.integers(1, 3))):
            part = data.draw(st.sampled_from([range(4), range(4, 4 + size), range(4 + size, len(table))]))
            table[data.draw(st.sampled_from(part))] = data.draw(st.integers(0, 255))
        if data.draw(st.integers(0, 3)) == 0:
            del table[data.draw(st.integers(0, len(table) - 1)) :]
        try:
            check_charsmap(bytes(table))
        except ValueError:
            outcomes.add("refused")
            return
        normalizers.Precompiled(bytes(table)).normalize_str(text)  # would bring the process down
        outcomes.add("harmless")

    check()
    assert outcomes == {"refused", "harmless"}


@pytest.mark.parametrize("rule", ["nmt_nfkc", "nfkc_cf"])
def test_replacements_of_sentencepiece_pass(rule):
    check_charsmap(read_sentencepiece(sentencepiece_file("unigram", normalization_rule_name=rule)).charsmap)


def test_truncated_files(tmp_path):
    data = sentencepiece_file("unigram")
    protocol = protobuf.ModelProto.FromString(data)
    file = tmp_path / "spiece.model"
    for length in (
        0,
        1,
        7,
        100,
        len(data) // 2,
        len(data) - 1,
        len(data) - len(protocol.normalizer_spec.SerializeToString()),
    ):
        file.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="no SentencePiece model that can be read"):
            load_sentencepiece(file)
