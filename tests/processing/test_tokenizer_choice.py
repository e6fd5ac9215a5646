"""The tables of tokenizer classes say what transformers' own tables say."""

import pytest
from transformers.models.auto.tokenization_auto import (
    MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS,
    TOKENIZER_MAPPING_NAMES,
    tokenizer_class_from_name,
)

from jaxformers.processing.tokenizer_choice import (
    AS_WRITTEN,
    BY_MODEL_TYPE,
    CORRECTED,
    GENERIC,
    choose_class,
    short_name,
)
from jaxformers.processing.tokenizer_classes import RECIPES
from jaxformers.processing.tokenizer_kinds import MODULES

GENERIC_CLASSES = ("TokenizersBackend", "MistralCommonBackend")


def test_model_types_that_take_the_file_as_written():
    assert {name for name, kind in TOKENIZER_MAPPING_NAMES.items() if kind in GENERIC_CLASSES} == AS_WRITTEN


def test_model_types_with_a_wrong_class():
    expected = {
        name: short_name(TOKENIZER_MAPPING_NAMES[name])
        for name in MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
        if TOKENIZER_MAPPING_NAMES[name] not in GENERIC_CLASSES
    }
    assert expected == CORRECTED


def test_classes_by_model_type():
    known = {*RECIPES, *MODULES}
    expected = {
        name: short_name(kind) for name, kind in TOKENIZER_MAPPING_NAMES.items() if kind and short_name(kind) in known
    }
    assert expected == BY_MODEL_TYPE


@pytest.mark.parametrize("name", RECIPES)
def test_defaults_of_classes(name):
    kind = tokenizer_class_from_name(f"{name}Tokenizer")
    assert list(RECIPES[name].inputs) == kind.model_input_names
    assert RECIPES[name].padding_side == kind.padding_side
    if RECIPES[name].model is not None:
        assert kind.model.__name__ == RECIPES[name].model


@pytest.mark.parametrize(
    "tokenizer_class, model_type, byte_level, expected",
    [
        ("BertTokenizerFast", "bert", False, "Bert"),
        (None, "bert", False, "Bert"),
        (None, "mistral", False, GENERIC),
        (None, None, False, GENERIC),
        ("PreTrainedTokenizerFast", "gemma", False, GENERIC),
        ("LlamaTokenizer", "llama", True, GENERIC),
        ("LlamaTokenizer", "llama", False, "Llama"),
        ("LlamaTokenizer", "mixtral", False, GENERIC),
        ("LlamaTokenizerFast", "qwen2", True, "Qwen2"),
        ("GPT2Tokenizer", "bloom", True, "GPT2"),
        ("BloomTokenizerFast", "bloom", True, GENERIC),
    ],
)
def test_choice(tokenizer_class, model_type, byte_level, expected):
    config = {"tokenizer_class": tokenizer_class} if tokenizer_class else {}
    assert choose_class(config, {"model_type": model_type}, byte_level) == expected
