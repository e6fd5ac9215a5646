"""Metrics against known values, their libraries, and each other; as functions and as a Trainer's compute_metrics."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.core.errors import MissingExtra
from jaxformers.training.metrics.entities import entities
from tests.training.data.words import word_tokenizer

RNG = np.random.default_rng(0)


def evaluation(predictions, labels):
    """What a Trainer hands over."""
    return SimpleNamespace(predictions=predictions, label_ids=labels)


GIVEN, LABELS = [0, 1, 2, 2, 1, 0, 2], [0, 1, 1, 2, 0, 0, 2]
# By hand: class 0 has 2 of 2 predicted right and 2 of 3 found, class 1 1 of 2 and 1 of 2, class 2 2 of 3 and 2 of 2.
F1S = (0.8, 0.5, 0.8)


@pytest.mark.parametrize(
    ("name", "options", "want"),
    [
        ("accuracy", {}, 5 / 7),
        ("precision", {}, (1 + 1 / 2 + 2 / 3) / 3),
        ("recall", {"average": "macro"}, (2 / 3 + 1 / 2 + 1) / 3),
        ("f1", {"average": "macro"}, sum(F1S) / 3),
        ("f1", {"average": "weighted"}, (3 * 0.8 + 2 * 0.5 + 2 * 0.8) / 7),
        ("f1", {"average": "micro"}, 5 / 7),
        ("f1", {"average": None}, F1S),
    ],
)  # fmt: skip
def test_classes(name, options, want) -> None:
    made = jf.metric(name, **options)
    assert made(GIVEN, LABELS) == {name: pytest.approx(want)}
    logits = np.eye(3)[GIVEN] * 4 - 1
    assert made(evaluation(logits, np.array(LABELS))) == {name: pytest.approx(want)}
    assert made(evaluation((logits, RNG.normal(size=(7, 2))), np.array(LABELS))) == {name: pytest.approx(want)}
    padded = np.concatenate([logits, RNG.normal(size=(2, 3))]), np.array([*LABELS, -100, -100])
    assert made(evaluation(*padded)) == {name: pytest.approx(want)}
    tokens = evaluation(np.stack([logits, logits]), np.stack([LABELS, np.full(7, -100)]))
    assert made(tokens) == {name: pytest.approx(want)}


def test_two_classes_and_several_labels() -> None:
    assert jf.metric("f1")([1, 1, 0, 0], [1, 0, 0, 1]) == {"f1": 0.5}
    assert jf.metric("precision")([1, 1, 0, 0], [1, 0, 0, 0]) == {"precision": 0.5}
    scores = np.array([[2.0, -1.0, 3.0], [-1.0, 1.0, -2.0]])
    several = evaluation(scores, np.array([[1.0, 0, 1], [0, 1, 1]]))
    assert jf.metric("f1", average="micro")(several) == {"f1": pytest.approx(6 / 7)}
    assert jf.metric("accuracy")(several) == {"accuracy": 0.5}
    assert jf.metric("f1", average="micro", threshold=2.5)(several) == {"f1": pytest.approx(0.4)}


def test_causal_models_predict_the_next_token() -> None:
    labels = np.array([[5, 6, 7, -100]])
    logits = np.eye(9)[[[6, 7, 1, 1]]] * 20
    assert jf.metric("accuracy", shift=1)(evaluation(logits, labels)) == {"accuracy": 1.0}
    assert jf.metric("perplexity")(evaluation(logits, labels)) == {"perplexity": pytest.approx(1, abs=1e-4)}
    uniform = np.zeros((20, 4, 9), np.float32)
    assert jf.metric("perplexity")(uniform, np.repeat(labels, 20, axis=0))["perplexity"] == pytest.approx(9)
    import torch

    logits, labels = RNG.normal(size=(3, 5, 9)), RNG.integers(0, 9, (3, 5))
    labels[0, 2:] = -100
    want = torch.nn.functional.cross_entropy(
        torch.tensor(logits).reshape(-1, 9), torch.tensor(labels).reshape(-1)
    ).exp()
    assert jf.metric("perplexity", shift=0)(logits, labels)["perplexity"] == pytest.approx(float(want))
    with pytest.raises(ValueError, match=r"needs scores \[rows,T,V\]"):
        jf.metric("perplexity")(labels, labels)


def test_ranks_and_correlations() -> None:
    assert jf.metric("auc")([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == {"roc_auc": 0.75}
    logits = np.log(np.array([[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]]))
    assert jf.metric("roc_auc")(logits, np.array([0, 0, 1, 1])) == {"roc_auc": 0.75}
    many = RNG.normal(size=(30, 3))
    assert 0.3 < jf.metric("auc")(many, np.arange(30) % 3)["roc_auc"] < 0.7
    assert jf.metric("auc")(np.eye(3)[np.arange(30) % 3], np.arange(30) % 3) == {"roc_auc": 1.0}
    assert jf.metric("matthews")([1, 1, 0, 0], [1, 0, 0, 0]) == {"matthews_correlation": pytest.approx(1 / 3**0.5)}
    x, y = np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([1.0, 4.0, 9.0, 16.0])
    assert jf.metric("spearman")(x, y) == {"spearman": pytest.approx(1)}
    assert jf.metric("pearson")(x, y) == {"pearson": pytest.approx(np.corrcoef(x[:, 0], y)[0, 1])}
    assert jf.metric("mse")(np.append(x, 7), np.append(y, np.nan)) == {"mse": 46.0}
    assert jf.metric("mae")(x, y) == {"mae": 5.0}


def test_answers() -> None:
    assert jf.metric("exact_match")(["a", "The b"], ["a", "b"]) == {"exact_match": 0.5}
    assert jf.metric("exact_match", normalize=True)(["a", "The b!"], ["A a", ["c", "b"]]) == {"exact_match": 1.0}
    # https://rajpurkar.github.io/SQuAD-explorer: articles and punctuation do not count; the best reference does.
    given = [{"id": "1", "prediction_text": "the Denver Broncos!"}, {"id": "2", "prediction_text": "in 1976"}]
    wanted = [
        {"id": "2", "answers": {"text": ["1976", "the year 1976"], "answer_start": [1, 2]}},
        {"id": "1", "answers": {"text": ["Denver Broncos"], "answer_start": [0]}},
    ]
    want = {"exact_match": 50.0, "f1": pytest.approx(100 * (1 + 2 / 3) / 2)}
    assert jf.metric("squad")(given, wanted) == want
    assert jf.metric("squad")(["", "x"], [[], []]) == {"exact_match": 50.0, "f1": 50.0}
    with pytest.raises(ValueError, match="1 questions have no prediction, the first is '2'"):
        jf.metric("squad")(given[:1], wanted)


def test_spans_by_their_ends() -> None:
    starts, ends = np.eye(6)[[1, 3, 2]], np.eye(6)[[2, 4, 0]] + np.eye(6)[[2, 4, 3]] * 0.5
    labels = np.array([1, 2, -100]), np.array([2, 4, -100])
    out = jf.metric("spans")(evaluation((starts, ends, np.zeros(3)), labels))
    assert out == {"exact_match": 0.5, "f1": pytest.approx((1 + 2 * 2 / (2 + 3)) / 2)}
    last = jf.metric("spans")((starts, ends), (np.array([-1, -1, 2]), np.array([-1, -1, 3])))
    assert last == {"exact_match": 1.0, "f1": 1.0}  # an end before the start is none


def test_errors_of_words_and_letters() -> None:
    given, wanted = ["the cat sat", "on mats"], ["the cat sat on", "on the mat"]
    assert jf.metric("wer")(given, wanted) == {"wer": pytest.approx(3 / 7)}
    assert jf.metric("cer")(["abcd"], ["abc"]) == {"cer": pytest.approx(1 / 3)}
    assert jf.metric("wer", normalize=str.lower)(["A", "B"], ["a", ""]) == {"wer": 0.0}
    with pytest.raises(ValueError, match="every reference is empty"):
        jf.metric("wer")(["a"], [" "])


def test_translations_and_summaries() -> None:
    import sacrebleu

    given = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
    wanted = [
        ["The dog had bit the man.", "The dog bit the man."],
        ["It was not unexpected."] * 2,
        ["The man had bitten him."] * 2,
    ]
    want = sacrebleu.BLEU().corpus_score(given, [list(column) for column in zip(*wanted, strict=True)]).score
    assert jf.metric("bleu")(given, wanted) == {"bleu": pytest.approx(want)} and 40 < want < 100
    assert jf.metric("bleu")(given, given) == {"bleu": pytest.approx(100)}
    assert jf.metric("chrf")(given, given) == {"chrf": pytest.approx(100)}
    out = jf.metric("rouge", kinds=("rouge1", "rouge2", "rougeL"))(["the cat sat"], ["the cat ran home"])
    assert out == {"rouge1": pytest.approx(4 / 7), "rouge2": pytest.approx(2 / 5), "rougeL": pytest.approx(4 / 7)}
    assert jf.metric("rouge", kinds=("rouge1",))(["a b"], [["c", "a b"]]) == {"rouge1": 1.0}
    with pytest.raises(ValueError, match=r"\[1, 2\] references"):
        jf.metric("bleu")(["a", "b"], [["a"], ["b", "c"]])


def test_ids_and_scores_are_decoded(tmp_path) -> None:
    tokenizer = word_tokenizer(tmp_path)
    ids = lambda *texts: [tokenizer(text)["input_ids"] for text in texts]  # noqa: E731
    given, wanted = np.array(ids("one two three", "four five six")), np.array(ids("one two two", "four five six"))
    wanted = np.concatenate([wanted, np.full((2, 2), -100)], axis=1)
    made = jf.metric("wer", tokenizer=tokenizer)
    assert made(given, wanted) == {"wer": pytest.approx(1 / 6)}
    assert made(evaluation(np.eye(40)[given], wanted)) == {"wer": pytest.approx(1 / 6)}
    both = jf.metrics_for("SpeechSeq2Seq", tokenizer=tokenizer)
    assert both(given, wanted) == {"wer": pytest.approx(1 / 6), "cer": pytest.approx(4 / 24)}
    assert jf.metric("exact_match", tokenizer=tokenizer)(given, wanted) == {"exact_match": 0.5}
    with pytest.raises(ValueError, match="make it with tokenizer="):
        jf.metric("bleu")(given, wanted)


def test_entities_are_counted_whole() -> None:
    """The example of seqeval's own page."""
    wanted = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    given = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    out = jf.metric("entities")(given, wanted)
    assert out == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "accuracy": pytest.approx(0.8)}
    assert entities(["I-A", "I-A", "I-B", "B-B", "O", "S-C", "B-A", "E-A"]) == [
        ("A", 0, 1), ("B", 2, 2), ("B", 3, 3), ("C", 5, 5), ("A", 6, 7),
    ]  # fmt: skip
    assert entities(["PER", "PER", "LOC", "O", "LOC"]) == [("PER", 0, 1), ("LOC", 2, 2), ("LOC", 4, 4)]
    names = {0: "O", 1: "B-PER", 2: "I-PER"}
    labels = np.array([[-100, 1, -100, 2, 0]])
    made = jf.metrics_for("TokenClassification", config=SimpleNamespace(id2label=names, num_labels=3))
    assert made(evaluation(np.eye(3)[[[0, 1, 0, 2, 0]]], labels))["f1"] == 1.0
    assert made(evaluation(np.eye(3)[[[0, 1, 0, 0, 0]]], labels))["f1"] == 0.0


def test_detections() -> None:
    truth = [
        {"boxes": [[10, 10, 60, 60], [100, 100, 150, 180]], "labels": [1, 2]},
        {"boxes": [[0, 0, 40, 40]], "labels": [1]},
    ]
    found = [{**image, "scores": [0.9] * len(image["labels"])} for image in truth]
    assert jf.metric("map")(found, truth)["map"] == pytest.approx(1)
    found[0]["boxes"] = [[10, 10, 60, 60], [300, 300, 350, 350]]  # class 2 is missed, class 1 found
    found[1]["boxes"] = [[0, 0, 40, 30]]  # an overlap of 3/4: right at 0.5 to 0.75, wrong at 0.8 to 0.95
    out = jf.metric("map")(found, truth)
    assert out["map_50"] == pytest.approx(0.5) and np.isnan(out["map_small"])
    # At 0.8 and above the first of two equally sure boxes is right, so that precision is 1 up to a recall of a half.
    assert out["map"] == pytest.approx((6 * 1 + 4 * 51 / 101) / 10 / 2, abs=1e-6)
    empty = [{"boxes": np.zeros((0, 4)), "labels": [], "scores": []}] * 2
    assert jf.metric("map")(empty, truth)["map"] == 0


def test_metrics_of_tasks() -> None:
    logits, labels = np.eye(3)[GIVEN], np.array(LABELS)
    out = jf.metrics_for("SequenceClassification")(evaluation(logits, labels))
    assert out == {"accuracy": pytest.approx(5 / 7), "f1": pytest.approx(0.7)}
    one = jf.metrics_for("SequenceClassification", config=SimpleNamespace(num_labels=1))
    assert set(one(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.5]))) == {"pearson", "spearman", "mse"}
    assert set(jf.metrics_for("CausalLM")(np.zeros((1, 3, 5)), np.ones((1, 3), int))) == {"accuracy", "perplexity"}
    assert set(jf.metrics_for("Seq2SeqLM", tokenizer="any")(["a b"], ["a b"])) > {"bleu", "rougeL"}
    model = SimpleNamespace(task="MultipleChoice", config=None)
    assert jf.metrics_for(model)(np.eye(2), np.array([0, 1])) == {"accuracy": 1.0}
    assert jf.metrics_for("ZeroShotImageClassification") is None


def test_what_cannot_be_is_refused(monkeypatch) -> None:
    with pytest.raises(ValueError, match="no metric 'f2'; there are accuracy, auc"):
        jf.metric("f2")
    with pytest.raises(ValueError, match=r"'f1' does not take \['mean'\]; its options are: average"):
        jf.metric("f1", mean="macro")
    with pytest.raises(ValueError, match=r"predictions have shape \(2,\), references \(3,\)"):
        jf.metric("accuracy")([1, 2], [1, 2, 3])
    with pytest.raises(TypeError, match="takes predictions and references"):
        jf.metric("accuracy")([1, 2])
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(MissingExtra, match=r"word error rate needs jiwer.*jaxformers\[metrics\]"):
        jf.metric("wer")(["a"], ["b"])
