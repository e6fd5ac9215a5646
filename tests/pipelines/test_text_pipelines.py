"""Text pipelines against transformers' on the same tiny checkpoints: equal results for equal calls."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import transformers

import jaxformers as jf
from jaxformers.pipelines.pipeline import PipelineInputError
from tests.pipelines.tiny_pipes import LLAMA, SMALL, T5, TEXTS, byte_pairs, pieces, save, word_pieces


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One checkpoint for each head."""
    home = tmp_path_factory.mktemp("text-pipelines")
    made = {}
    ner = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}
    nli = {0: "contradiction", 1: "neutral", 2: "entailment"}
    for name, cls, config in (
        ("classify", "BertForSequenceClassification", dict(num_labels=3)),
        ("regress", "BertForSequenceClassification", dict(num_labels=1, problem_type="regression")),
        ("many", "BertForSequenceClassification", dict(num_labels=4, problem_type="multi_label_classification")),
        ("tokens", "BertForTokenClassification", dict(id2label=ner, label2id={v: k for k, v in ner.items()})),
        ("entail", "BertForSequenceClassification", dict(id2label=nli, label2id={v: k for k, v in nli.items()})),
        ("mask", "BertForMaskedLM", {}),
        ("answer", "BertForQuestionAnswering", {}),
        ("base", "BertModel", {}),
    ):
        folder = home / name
        folder.mkdir()
        made[name] = save(folder, cls, word_pieces(folder), max_position_embeddings=128, **SMALL, **config)
    special = dict(pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")
    tokenizer = byte_pairs(**special)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    ids = dict(pad_token_id=0, eos_token_id=1, bos_token_id=2)
    made["llama"] = save(home / "llama", "LlamaForCausalLM", tokenizer, 0.1, **LLAMA, **ids)
    made["t5"] = save(home / "t5", "T5ForConditionalGeneration", pieces(), 0.1, **T5, pad_token_id=0, eos_token_id=1)
    return made


def close(ours: Any, theirs: Any, path: str = "") -> None:
    """Equal but for the last digits of numbers."""
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs), f"{path}: {set(ours)} and {set(theirs)}"
        for key in theirs:
            close(ours[key], theirs[key], f"{path}.{key}")
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), f"{path}: {ours} and {theirs}"
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            close(a, b, f"{path}[{i}]")
    elif isinstance(theirs, (float, np.floating)):
        assert abs(ours - theirs) < 2e-5, f"{path}: {ours} and {theirs}"
    else:
        assert ours == theirs, f"{path}: {ours!r} and {theirs!r}"


def both(folders: dict[str, Path], name: str, task: str, **options: Any) -> tuple[Any, Any]:
    """Our pipeline and theirs."""
    theirs = transformers.pipeline(task, model=str(folders[name]), device="cpu", **options)
    return jf.pipeline(task, folders[name], **options), theirs


@pytest.mark.parametrize("name", ["classify", "regress", "many"])
def test_text_classification(folders: dict[str, Path], name: str) -> None:
    ours, theirs = both(folders, name, "text-classification")
    pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    close(ours(TEXTS), theirs(TEXTS))
    for options in ({}, {"top_k": None}, {"top_k": 2}, {"top_k": 1}, {"function_to_apply": "sigmoid", "top_k": None}):
        close(ours(TEXTS[0], **options), theirs(TEXTS[0], **options))
    close(ours([pair, TEXTS[3]], top_k=None), theirs([pair, TEXTS[3]], top_k=None))
    close(ours(TEXTS, batch_size=2), theirs(TEXTS))


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_token_classification(folders: dict[str, Path], strategy: str) -> None:
    ours, theirs = both(folders, "tokens", "token-classification", aggregation_strategy=strategy)
    close(ours(TEXTS), theirs(TEXTS))
    close(ours(TEXTS[2]), theirs(TEXTS[2]))
    close(ours(TEXTS[2], ignore_labels=["B-PER"]), theirs(TEXTS[2], ignore_labels=["B-PER"]))
    words = TEXTS[2].split()
    close(ours(words, is_split_into_words=True), theirs(words, is_split_into_words=True)[0])
    if strategy != "none":
        long = " ".join(TEXTS * 8)
        close(ours(long, stride=10), theirs(long, stride=10))


def test_zero_shot(folders: dict[str, Path]) -> None:
    ours, theirs = both(folders, "entail", "zero-shot-classification")
    labels = ["dog", "house", "river"]
    close(ours(TEXTS[0], labels), theirs(TEXTS[0], labels))
    close(ours(TEXTS, candidate_labels="dog, cat"), theirs(TEXTS, candidate_labels="dog, cat"))
    close(ours(TEXTS[0], labels, multi_label=True), theirs(TEXTS[0], labels, multi_label=True))
    options = dict(candidate_labels=["dog"], hypothesis_template="a {}")
    close(ours(TEXTS[0], **options), theirs(TEXTS[0], **options))
    with pytest.raises(ValueError, match="no place for the label"):
        ours(TEXTS[0], labels, hypothesis_template="a dog")


def test_fill_mask(folders: dict[str, Path]) -> None:
    ours, theirs = both(folders, "mask", "fill-mask")
    one, two = "the [MASK] sat on the mat.", "the [MASK] sat on the [MASK]."
    close(ours(one), theirs(one))
    close(ours(two, top_k=3), theirs(two, top_k=3))
    close(ours([one, two]), theirs([one, two]))
    close(ours(one, targets=["dog", "cat"]), theirs(one, targets=["dog", "cat"]))
    with pytest.raises(ValueError, match="no mask token"):
        ours("the cat")


def test_feature_extraction(folders: dict[str, Path]) -> None:
    ours, theirs = both(folders, "base", "feature-extraction")
    for a, b in zip(ours(TEXTS), theirs(TEXTS), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_question_answering(folders: dict[str, Path]) -> None:
    """transformers 5 has no such pipeline: against the definition, every span scored by two softmaxes."""
    ours = jf.pipeline("question-answering", folders["answer"])
    context = "The cat sat on the mat. A red dog lives in Berlin, the blue river runs slow."
    (one, *_) = ours(question="where lives the dog?", context=context, top_k=3, max_answer_len=4)
    tokenizer = jf.AutoTokenizer.from_pretrained(folders["answer"])
    encoded = tokenizer("where lives the dog?", context)
    out = jf.AutoModelForQuestionAnswering.from_pretrained(folders["answer"])(
        **tokenizer("where lives the dog?", context, return_tensors="np")
    )
    allowed = np.array([s == 1 for s in encoded.sequence_ids()])
    allowed[0] = True  # the classification token keeps its share of probability and is no answer
    start, end = (np.exp(np.where(allowed, np.asarray(x[0]), -np.inf)) for x in (out.start_logits, out.end_logits))
    start, end = start / start.sum(), end / end.sum()
    words = encoded.word_ids()
    sums: dict[str, float] = {}
    spans = []
    for a in range(1, len(allowed)):
        for b in range(a, min(a + 4, len(allowed))):
            if allowed[a] and allowed[b]:
                spans.append((float(start[a] * end[b]), a, b))
    for score, a, b in sorted(spans, reverse=True)[: 3 * 2 + 10]:
        first, last = encoded.word_to_chars(0, words[a], 1), encoded.word_to_chars(0, words[b], 1)
        text = context[first.start : last.end]
        sums[text.lower()] = sums.get(text.lower(), 0.0) + score
    best = max(sums, key=lambda t: sums[t])
    assert one["answer"].lower() == best and abs(one["score"] - sums[best]) < 1e-5
    assert context[one["start"] : one["end"]] == one["answer"]
    many = ours(question=["where?", "what?"], context=context)
    assert len(many) == 2 and set(many[0]) == {"score", "start", "end", "answer"}
    long = ours(question="where?", context=context * 6, max_seq_len=40, doc_stride=10, top_k=2)
    assert len(long) == 2 and long[0]["score"] >= long[1]["score"]
    assert any(a["answer"] == "" for a in ours(question="a", context=context, handle_impossible_answer=True, top_k=99))


def test_text_generation(folders: dict[str, Path]) -> None:
    ours, theirs = both(folders, "llama", "text-generation")
    greedy = dict(do_sample=False, max_new_tokens=8)
    prompts = ["The cat", "A red house, a"]
    close(ours("The cat", **greedy), theirs("The cat", **greedy))
    close(ours(prompts, **greedy), theirs(prompts, **greedy))
    close(ours("The", return_full_text=False, **greedy), theirs("The", return_full_text=False, **greedy))
    close(ours("The", return_tensors=True, **greedy), theirs("The", return_tensors=True, **greedy))
    chat = [{"role": "user", "content": "How do I read?"}]
    close(ours(chat, **greedy), theirs(chat, **greedy))
    open_chat = [*chat, {"role": "assistant", "content": "A zip"}]
    close(ours([chat, open_chat], **greedy), theirs([chat, open_chat], **greedy))
    several = dict(num_beams=3, num_return_sequences=2, do_sample=False, max_new_tokens=6)
    close(ours("The cat", **several), theirs("The cat", **several))
    sampled = ours("The", max_new_tokens=4, num_return_sequences=3)
    assert len(sampled) == 3 and all(r["generated_text"].startswith("The") for r in sampled)


def test_text_to_text(folders: dict[str, Path]) -> None:
    """Dropped by transformers 5: what it wrote is `generate`'s output, decoded."""
    model = transformers.T5ForConditionalGeneration.from_pretrained(folders["t5"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["t5"])
    for task, key in (("text2text-generation", "generated"), ("summarization", "summary")):
        ours = jf.pipeline(task, folders["t5"])
        for options in ({"max_new_tokens": 6}, {"max_new_tokens": 6, "num_beams": 1}):
            inputs = tokenizer(TEXTS[0], return_tensors="pt")
            ids = model.generate(**inputs, **{"num_beams": 4, **options})
            want = tokenizer.decode(ids[0], skip_special_tokens=True)
            assert ours(TEXTS[0], **options) == [{f"{key}_text": want}]
    translate = jf.pipeline("translation_en_to_de", folders["t5"])
    found = translate(TEXTS[:2], max_new_tokens=4)
    assert [set(f) for f in found] == [{"translation_text"}] * 2


def test_similarity(folders: dict[str, Path]) -> None:
    pipe = jf.pipeline("sentence-similarity", folders["base"])
    scores = pipe({"source_sentence": TEXTS[0], "sentences": [TEXTS[0], TEXTS[2]]})
    vectors = jf.Embedder.from_pretrained(folders["base"]).encode(TEXTS)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(scores, [1.0, vectors[0] @ vectors[2]], atol=1e-5)


def test_one_bad_input_fails_alone(folders: dict[str, Path]) -> None:
    pipe = jf.pipeline("text-classification", folders["classify"])
    good = pipe([TEXTS[0], TEXTS[1]])
    with pytest.raises(PipelineInputError, match="input 1: expected a text, found int") as caught:
        pipe([TEXTS[0], 3, TEXTS[1]])
    assert caught.value.index == 1 and [caught.value.results[0], caught.value.results[2]] == good
    results = pipe([TEXTS[0], 3, TEXTS[1]], errors="return")
    assert isinstance(results[1], PipelineInputError) and [results[0], results[2]] == good
    with pytest.raises(ValueError, match="tokens, the model takes 128"):
        pipe("the " * 200)
    assert pipe("the " * 200, truncation=True)
    with pytest.raises(TypeError, match="did you mean top_k"):
        pipe(TEXTS[0], topk=2)


def test_a_row_that_the_model_refuses_fails_alone(folders: dict[str, Path]) -> None:
    """What only the model finds out does not take its batch down either."""
    pipe = jf.pipeline("text-classification", folders["classify"])
    good, forward = pipe(TEXTS), pipe.forward
    bad = int(pipe.prepare(TEXTS[3], pipe.defaults)[0].inputs["input_ids"][1])

    def fussy(batch, options):
        if (batch["input_ids"][:, 1] == bad).any():
            raise ValueError("too fussy")
        return forward(batch, options)

    pipe.forward = fussy
    results = pipe(TEXTS, errors="return")
    close(results[:3], good[:3])
    assert isinstance(results[3], PipelineInputError) and "input 3: too fussy" in str(results[3])


def test_a_key_draws_anew_for_every_batch(folders: dict[str, Path]) -> None:
    pipe = jf.pipeline("text-generation", folders["llama"])
    options = dict(max_new_tokens=8, temperature=2.0, batch_size=1, return_full_text=False)
    texts = [r[0]["generated_text"] for r in pipe(["The cat"] * 3, key=jax.random.key(0), **options)]
    assert len(set(texts)) == 3
    assert texts == [r[0]["generated_text"] for r in pipe(["The cat"] * 3, key=jax.random.key(0), **options)]


def test_streams_and_buckets(folders: dict[str, Path]) -> None:
    """A generator streams through, and many lengths run in few shapes."""
    pipe = jf.pipeline("text-classification", folders["classify"])
    shapes = set()
    forward = pipe.forward
    pipe.forward = lambda batch, o: (shapes.add(batch["input_ids"].shape), forward(batch, o))[1]
    texts = ["the cat " * n for n in range(1, 40)]
    drawn = []

    def source():
        for text in texts:
            drawn.append(text)
            yield text

    stream = pipe(source(), batch_size=4)
    first = next(stream)
    assert len(drawn) == 32, "a window of eight batches is read before its first result"
    rest = list(stream)
    assert len(shapes) <= 8, shapes
    close([first, *rest], pipe(texts, batch_size=4))


def test_what_pipeline_refuses(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="nearest: text-classification"):
        jf.pipeline("text-clasification", folders["classify"])
    with pytest.raises(ValueError, match="needs a head for MaskedLM"):
        jf.pipeline("fill-mask", folders["llama"])
    model = jf.AutoModelForMaskedLM.from_pretrained(folders["mask"])
    with pytest.raises(ValueError, match="needs a tokenizer"):
        jf.pipeline("fill-mask", model)
    with pytest.raises(ValueError, match="takes a model of AutoModelForSequenceClassification"):
        jf.pipeline("text-classification", model, tokenizer=folders["mask"])
    assert jf.pipeline(model=folders["mask"]).task == "fill-mask"
