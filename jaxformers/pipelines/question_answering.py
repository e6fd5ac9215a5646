"""Extractive question answering: the stretch of a context that answers a question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxformers.pipelines.pipeline import Options, Pipeline
from jaxformers.pipelines.rows import Row
from jaxformers.pipelines.text_rows import rows_of
from jaxformers.processing.shares import softmax

HIDDEN = -10000.0  # what transformers' pipeline puts where no answer may lie


@dataclass(frozen=True)
class AnswerOptions(Options):
    """doc_stride: tokens by which the windows of a long context overlap."""

    top_k: int = 1
    doc_stride: int | None = None
    max_answer_len: int = 15
    max_seq_len: int | None = None
    max_question_len: int = 64  # accepted as transformers does: only tokenizers without offsets ever read it
    handle_impossible_answer: bool = False
    align_to_words: bool = True

    def __post_init__(self) -> None:
        for name in ("top_k", "max_answer_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")


@dataclass(frozen=True)
class Span:
    """A window of the context: its encoding, and which tokens an answer may touch, Bool [T]."""

    encoding: Any
    allowed: np.ndarray
    sequence: int  # which of the two texts is the context


class QuestionAnswering(Pipeline):
    """{"question", "context"} to {"score", "start", "end", "answer"}, or to a list of them with top_k."""

    task = "question-answering"
    heads = ("QuestionAnswering",)
    options = AnswerOptions
    outputs = ("start_logits", "end_logits")
    padded = ("start_logits", "end_logits")

    def __call__(self, inputs: Any = None, *, question: Any = None, context: Any = None, **options: Any) -> Any:
        """As every pipeline; question= and context= may be texts or lists, of which one may be shared by all."""
        if inputs is not None:
            return super().__call__(inputs, **options)
        if question is None or context is None:
            raise ValueError('give question= and context=, or {"question": ..., "context": ...}')
        if isinstance(question, str) and isinstance(context, str):
            return super().__call__({"question": question, "context": context}, **options)
        questions = [question] * len(context) if isinstance(question, str) else list(question)
        contexts = [context] * len(questions) if isinstance(context, str) else list(context)
        if len(questions) != len(contexts):
            raise ValueError(f"there are {len(questions)} questions and {len(contexts)} contexts; expected as many")
        pairs = [{"question": q, "context": c} for q, c in zip(questions, contexts, strict=True)]
        return super().__call__(pairs if len(pairs) > 1 else pairs[0], **options)

    def prepare(self, item: Any, options: AnswerOptions) -> list[Row]:
        if not isinstance(item, Mapping) or not {"question", "context"} <= set(item):
            raise ValueError(f'expected {{"question": text, "context": text}}, found {item!r:.80}')
        for name in ("question", "context"):
            if not isinstance(item[name], str) or not item[name]:
                raise ValueError(f"{name} is {item[name]!r:.40}; expected a text that is not empty")
        if not self.tokenizer.is_fast:
            raise ValueError("question-answering needs a tokenizer that knows where its tokens lie in the text")
        length = options.max_seq_len or min(self.tokenizer.model_max_length, 384)
        stride = min(length // 2, 128) if options.doc_stride is None else options.doc_stride
        if stride > length:
            raise ValueError(f"doc_stride ({stride}) is larger than max_seq_len ({length})")
        first = self.tokenizer.padding_side == "right"
        texts = (item["question"], item["context"]) if first else (item["context"], item["question"])
        encoded = self.tokenizer(
            [texts[0]],
            [texts[1]],
            truncation="only_second" if first else "only_first",
            max_length=length,
            stride=stride,
            return_overflowing_tokens=True,
        )
        sequence = 1 if first else 0
        rows = []
        for i, row in enumerate(rows_of(encoded)):
            # Without a question first transformers allows every token; we allow the context's, as its name says.
            allowed = np.array([s == sequence for s in encoded.sequence_ids(i)])
            if self.tokenizer.cls_token_id is not None:
                allowed |= row.inputs["input_ids"] == self.tokenizer.cls_token_id
            rows.append(Row(row.inputs, Span(encoded[i], allowed, sequence)))
        return rows

    def finish(self, item: Any, rows: list[Row], outputs: list[dict[str, Any]], options: AnswerOptions) -> Any:
        context, answers, nothing = item["context"], [], 1_000_000.0
        wanted = options.top_k * 2 + 10 if options.align_to_words else options.top_k
        for row, output in zip(rows, outputs, strict=True):
            span: Span = row.note
            start, end = (
                softmax(np.where(span.allowed, np.asarray(output[name], np.float32), HIDDEN)) for name in self.outputs
            )
            if options.handle_impossible_answer:
                nothing = min(nothing, float(start[0] * end[0]))
            start[0] = end[0] = 0.0
            for a, b, score in best_spans(start, end, wanted, options.max_answer_len, span.allowed):
                at = characters(span, a, b, options.align_to_words)
                text = context[at[0] : at[1]]
                same = next((x for x in answers if x["answer"].lower() == text.lower()), None)
                if same is not None:
                    same["score"] += score
                else:
                    answers.append({"score": score, "start": at[0], "end": at[1], "answer": text})
        if options.handle_impossible_answer:
            answers.append({"score": nothing, "start": 0, "end": 0, "answer": ""})
        answers = sorted(answers, key=lambda x: -x["score"])[: options.top_k]
        return answers[0] if len(answers) == 1 else answers


def best_spans(
    start: np.ndarray, end: np.ndarray, count: int, longest: int, allowed: np.ndarray
) -> list[tuple[int, int, float]]:
    """The `count` likeliest (first, last, score) of at most `longest` tokens, without those that touch other tokens."""
    scores = np.tril(np.triu(np.outer(start, end)), longest - 1)
    flat = scores.ravel()
    if count == 1:
        order: Sequence[int] = [int(np.argmax(flat))]
    elif len(flat) < count:
        order = np.argsort(-flat).tolist()
    else:
        some = np.argpartition(-flat, count)[:count] if len(flat) > count else np.arange(len(flat))
        order = some[np.argsort(-flat[some])].tolist()
    found = [divmod(i, len(end)) for i in order]
    return [(a, b, float(scores[a, b])) for a, b in found if allowed[a] and allowed[b]]


def characters(span: Span, first: int, last: int, words: bool) -> tuple[int, int]:
    """Where tokens lie in the context, widened to whole words where the tokenizer knows them."""
    encoding = span.encoding
    if words:
        begin, end = encoding.token_to_word(first), encoding.token_to_word(last)
        if begin is not None and end is not None:
            a, b = encoding.word_to_chars(begin, span.sequence), encoding.word_to_chars(end, span.sequence)
            if a is not None and b is not None:
                return a[0], b[1]
    return encoding.offsets[first][0], encoding.offsets[last][1]
