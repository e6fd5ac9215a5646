"""Losses of text models equal transformers' own."""

from pathlib import Path

import numpy as np
import pytest

from tests.training.losses.sides import Case, compare

ONE = {"num_hidden_layers": 1}
FEW = {"num_hidden_layers": 1, "num_labels": 5}


def words(c, inputs, rng):
    """The texts themselves, with labels that count nothing among them."""
    labels = inputs["input_ids"].copy()
    labels[0, :3], labels[1, 5] = -100, -100
    return {"labels": labels}


def hidden_words(c, inputs, rng):
    """Words at a few places."""
    ids = inputs["input_ids"]
    return {"labels": np.where(rng.rand(*ids.shape) < 0.3, rng.randint(3, c.vocab_size, ids.shape), -100)}


def answers(c, inputs, rng):
    """Texts to write, of unequal length."""
    labels = rng.randint(3, 90, (2, 7))
    labels[1, -3:] = -100
    return {"labels": labels}


def tags(c, inputs, rng):
    """A class for most tokens."""
    labels = rng.randint(0, c.num_labels, inputs["input_ids"].shape)
    labels[0, 4:7] = -100
    return {"labels": labels}


def classes(c, inputs, rng):
    """A class for each row."""
    return {"labels": np.array([3, 1])}


def chosen(c, inputs, rng):
    """One of three choices."""
    return {"labels": np.array([2, 0])}


def next_sentence(c, inputs, rng):
    """Whether a sentence follows."""
    return {"labels": np.array([1, 0])}


def numbers(c, inputs, rng):
    """A number for each row."""
    return {"labels": np.array([0.3, -2.0], np.float32)}


def several_numbers(c, inputs, rng):
    """Numbers for each row."""
    return {"labels": rng.randn(2, c.num_labels).astype(np.float32)}


def several_classes(c, inputs, rng):
    """Any number of classes for each row."""
    return {"labels": (rng.rand(2, c.num_labels) < 0.5).astype(np.float32)}


def shares(c, inputs, rng):
    """Shares of the classes."""
    return {"labels": rng.dirichlet(np.ones(c.num_labels), 2).astype(np.float32)}


def partly_labelled(c, inputs, rng):
    """A class for one row of two."""
    return {"labels": np.array([2, -1])}


def spans(c, inputs, rng):
    """Answers that begin beyond the text or before it."""
    return {"start_positions": np.array([3, 50]), "end_positions": np.array([-1, 4])}


def words_and_pairs(name):
    """Hidden words, and how two sentences relate."""

    def labels(c, inputs, rng):
        return {**hidden_words(c, inputs, rng), name: np.array([1, 0])}

    return labels


def replaced(c, inputs, rng):
    """Which tokens were replaced, in texts with padding."""
    mask = np.ones_like(inputs["input_ids"])
    mask[1, -4:] = 0
    return {"labels": rng.randint(0, 2, mask.shape), "attention_mask": mask}


def padded_words(c, inputs, rng):
    """Texts with padding, which routers are not judged by."""
    mask = np.ones_like(inputs["input_ids"])
    mask[1, -4:] = 0
    return {"labels": np.where(mask == 1, inputs["input_ids"], -100), "attention_mask": mask}


BERT_CLASSES = ("bert", "BertForSequenceClassification", "default")
DEBERTA_CLASSES = ("deberta", "DebertaV2ForSequenceClassification", "default")
CASES = [
    Case(("llama", "LlamaForCausalLM", "default"), words, ONE, gradient=True),
    Case(("llama", "LlamaForCausalLM", "default"), words, ONE, {"chunk": 5}, gradient=True, note="chunks"),
    Case(("gemma", "Gemma2ForCausalLM", "low caps"), words, ONE, {"chunk": 4}, gradient=True),
    Case(("granite", "GraniteForCausalLM", "factors"), words, ONE, {"chunk": 8}),
    Case(("bert", "BertLMHeadModel", "default"), words, ONE),
    Case(("bart", "BartForCausalLM", "default"), words, {"decoder_layers": 1}),
    Case(("gpt2", "GPT2LMHeadModel", "default"), words, {"n_layer": 1}),
    Case(("mixtral", "MixtralForCausalLM", "router"), padded_words, ONE, gradient=True),
    Case(("qwen_moe", "Qwen3MoeForCausalLM", "default"), padded_words, ONE, {"router_aux_loss_coef": 0.001}),
    Case(("bert", "BertForMaskedLM", "default"), hidden_words, ONE, {"chunk": 3}, gradient=True),
    Case(("bert", "BertForMaskedLM", "other"), hidden_words, ONE),
    Case(("modernbert", "ModernBertForMaskedLM", "default"), hidden_words, ONE),
    Case(("t5", "T5ForConditionalGeneration", "default"), answers, {"num_layers": 1}, {"chunk": 4}, gradient=True),
    Case(("bart", "BartForConditionalGeneration", "other"), answers, {"encoder_layers": 1, "decoder_layers": 1}),
    Case(("bart", "BartForConditionalGeneration", "shifted"), answers, {"encoder_layers": 1, "decoder_layers": 1}),
    Case(BERT_CLASSES, classes, ONE),
    Case(BERT_CLASSES, numbers, {**ONE, "num_labels": 1}, note="a number"),
    Case(BERT_CLASSES, several_numbers, {**ONE, "problem_type": "regression"}, note="numbers"),
    Case(BERT_CLASSES, several_classes, ONE, note="several"),
    Case(("llama", "LlamaForSequenceClassification", "default"), classes, ONE, gradient=True),
    Case(("t5", "T5ForSequenceClassification", "default"), classes, {"num_layers": 1}),
    Case(DEBERTA_CLASSES, shares, ONE, note="shares"),
    Case(DEBERTA_CLASSES, partly_labelled, ONE, note="part"),
    Case(("bert", "BertForTokenClassification", "default"), tags, ONE),
    Case(("bert", "BertForQuestionAnswering", "default"), spans, ONE, gradient=True),
    Case(("bart", "BartForQuestionAnswering", "default"), spans, {"encoder_layers": 1, "decoder_layers": 1}),
    Case(("bert", "BertForMultipleChoice", "default"), chosen, ONE),
    Case(("bert", "BertForNextSentencePrediction", "default"), next_sentence, ONE),
    Case(("bert", "BertForPreTraining", "default"), words_and_pairs("next_sentence_label"), ONE, {"chunk": 4}),
    Case(("albert", "AlbertForPreTraining", "default"), words_and_pairs("sentence_order_label"), {"num_labels": 2}),
    Case(("electra", "ElectraForPreTraining", "default"), replaced, ONE),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_transformers(case: Case, tmp_path: Path) -> None:
    """Values to 1e-5, and gradients of the main ones."""
    theirs = {"row": case}
    if "router_aux_loss_coef" in case.options:  # ours by an option, theirs by the config
        config = {**case.config, "output_router_logits": True, **case.options}
        theirs = {"row": Case(case.row, case.labels, config, case.options)}
    out = compare(theirs["row"], tmp_path)
    assert float(out.weight) > 0
