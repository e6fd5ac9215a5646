"""Text to tokens on the way to a batch."""

import copy

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.core.errors import DataError
from jaxformers.training.data import (
    FirstFit,
    Tokenize,
    TokenizeChat,
    TokenizeCompletion,
    TokenizeWords,
    packing_efficiency,
)
from jaxformers.training.data.collate import DataCollatorForSeq2Seq, DataCollatorWithPadding
from tests.training.data.words import word_tokenizer


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return word_tokenizer(tmp_path_factory.mktemp("words"))


def test_texts_are_tokenised_on_the_fly(words) -> None:
    rows = [{"text": "one two three", "label": 1}, {"text": b"four", "label": 0}]
    loader = jf.DataLoader(
        rows, batch_size=2, epochs=1, transform=Tokenize(words, max_length=4), collate=DataCollatorWithPadding(words)
    )
    (batch,) = list(loader)
    assert words.batch_decode(batch["input_ids"]) == ["<s> one two </s>", "<s> four </s> <pad>"]
    assert batch["labels"].tolist() == [1, 0] and batch["attention_mask"].tolist() == [[1] * 4, [1, 1, 1, 0]]
    assert batch["input_ids"].dtype == np.int32


def test_targets_become_labels(words) -> None:
    rows = [{"en": "one two", "de": "three"}, {"en": "four", "de": "five six seven"}]
    made = Tokenize(words, text="en", target="de", max_target_length=4)
    batch = DataCollatorForSeq2Seq(words)([made(row) for row in rows])
    assert words.batch_decode(np.where(batch["labels"] < 0, 0, batch["labels"])) == [
        "<s> three </s> <pad>",
        "<s> five six </s>",
    ]
    assert "en" not in made(rows[0]) and "de" not in made(rows[0])


def test_an_end_is_added_once(words) -> None:
    plain = Tokenize(words, end=True)({"text": "one"})["input_ids"]
    assert plain.tolist() == words("one")["input_ids"]
    bare = Tokenize(words, end=True, options={"add_special_tokens": False}, max_length=2)
    assert words.decode(bare({"text": "one"})["input_ids"]) == "one </s>"
    row = bare({"text": "one two three"})
    assert words.decode(row["input_ids"]) == "one </s>" and row["attention_mask"].tolist() == [1, 1]


def test_words_have_their_labels_at_their_first_token(tiny_bert) -> None:
    tokenizer = jf.AutoTokenizer.from_pretrained(tiny_bert)
    row = {"tokens": ["the", "cat.", "runs"], "ner_tags": [0, 5, 2]}
    assert TokenizeWords(tokenizer)(row)["labels"] == [-100, 0, 5, -100, 2, -100]
    assert TokenizeWords(tokenizer, whole=True)(row)["labels"] == [-100, 0, 5, 5, 2, -100]
    with pytest.raises(
        DataError, match="row 0 of the data could not be transformed: ValueError: 1 tokens have 2 ner_tags"
    ):
        list(jf.DataLoader([{"tokens": ["a"], "ner_tags": [1, 2]}], batch_size=1, transform=TokenizeWords(tokenizer)))


TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }} </s>{% endgeneration %}"
    "{% else %}<s> {{ m.content }} . {% endif %}{% endfor %}"
)


def test_only_what_the_assistant_says_is_learnt(words) -> None:
    words = copy.deepcopy(words)
    words.chat_template = TEMPLATE
    say = lambda role, text: {"role": role, "content": text}  # noqa: E731
    row = {
        "messages": [say("user", "one two"), say("assistant", "three"), say("user", "four"), say("assistant", "five")]
    }
    made = TokenizeChat(words)({**row, "source": 1})
    learnt = made["labels"][made["labels"] != -100]
    assert words.decode(learnt) == "three </s> five </s>" and made["source"] == 1 and "messages" not in made
    assert (made["labels"] == made["input_ids"])[made["labels"] != -100].all()
    assert len(TokenizeChat(words, max_length=5)(row)["input_ids"]) == 5
    words.chat_template = "{{ messages[0].content }}"
    with pytest.raises(DataError, match="row 0 .*generation"):
        list(jf.DataLoader([row], batch_size=1, transform=TokenizeChat(words)))


def test_only_the_completion_is_learnt(words) -> None:
    made = TokenizeCompletion(words)({"prompt": "one two ", "completion": "three four"})
    assert words.decode(made["input_ids"]) == "<s> one two three four </s>"
    assert made["labels"].tolist() == [-100] * 3 + made["input_ids"][3:].tolist()
    assert TokenizeCompletion(words, max_length=4)({"prompt": "one two ", "completion": "three four"})[
        "labels"
    ].shape == (4,)


def test_threads_tokenise_the_same(words) -> None:
    rows = [{"text": "one two three four " * (1 + i % 3), "label": i} for i in range(30)]
    for transform in (Tokenize(words), TokenizeCompletion(words, prompt="text", completion="text")):
        make = lambda threads: list(  # noqa: E731
            jf.DataLoader(
                rows, batch_size=6, epochs=1, transform=transform, threads=threads, collate=lambda rows: {"rows": rows}
            )  # noqa: B023
        )
        for one, other in zip(make(0), make(3), strict=True):
            for a, b in zip(one["rows"], other["rows"], strict=True):
                assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_a_missing_field_is_named(words) -> None:
    loader = jf.DataLoader([{"txt": "one"}], batch_size=1, transform=Tokenize(words))
    with pytest.raises(DataError, match=r"row 0 .*KeyError: 'text'; its fields are \['txt'\]"):
        list(loader)


def test_texts_are_packed(words) -> None:
    rows = [{"text": "one two three four " * (1 + i % 3)} for i in range(30)]
    pack = FirstFit(32, pad=words.pad_token_id)
    batches = list(jf.DataLoader(rows, batch_size=2, epochs=1, transform=Tokenize(words), pack=pack))
    assert packing_efficiency(batches) > 0.9
    assert set(batches[0]) == {"input_ids", "labels", "segment_ids"}
