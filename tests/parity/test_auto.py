"""Auto classes: every head that transformers' auto mappings give a type, under the same names."""

import pytest
from transformers.models.auto import modeling_auto

import jaxformers as jf
from jaxformers.hub.auto import TASKS
from jaxformers.models import MODEL_TYPES, family_of

# Names of mappings -> the end of the auto class. What is absent maps "FOR_X_Y" to "XY".
RENAMED = {
    "FOR_CAUSAL_LM": "CausalLM",
    "FOR_MASKED_LM": "MaskedLM",
    "FOR_SEQ_TO_SEQ_CAUSAL_LM": "Seq2SeqLM",
    "FOR_SPEECH_SEQ_2_SEQ": "SpeechSeq2Seq",
    "FOR_PRETRAINING": "PreTraining",
    "FOR_CTC": "CTC",
    "FOR_AUDIO_XVECTOR": "AudioXVector",
    "FOR_MULTIMODAL_LM": "MultimodalLM",
}
NO_HEAD = {"FOR_IMAGE"}  # this and the bare mapping are AutoModel


def mappings() -> dict[str, dict[str, str]]:
    """{task: {model type: class name}} as transformers has it."""
    out = {}
    for name, types in vars(modeling_auto).items():
        if name.startswith("MODEL_FOR_") and name.endswith("_MAPPING_NAMES"):
            short = name.removeprefix("MODEL_").removesuffix("_MAPPING_NAMES")
            if short not in NO_HEAD:
                words = short.removeprefix("FOR_").split("_")
                out[RENAMED.get(short, "".join(w.capitalize() for w in words))] = dict(types)
    return out


@pytest.mark.parametrize("name", sorted(MODEL_TYPES))
def test_every_head_is_there(name: str) -> None:
    tasks = family_of(name).tasks
    for task, types in mappings().items():
        if name in types:
            assert task in tasks, f"{name} lacks {task} ({types[name]})"
            assert tasks[task].architecture == types[name], task
            assert hasattr(jf, "AutoBackbone" if task == "Backbone" else f"AutoModelFor{task}")


@pytest.mark.parametrize("name", sorted(MODEL_TYPES))
def test_base_models_have_the_right_name(name: str) -> None:
    types = dict(modeling_auto.MODEL_MAPPING_NAMES)
    if name in types:
        assert family_of(name).architecture == types[name]


def test_every_task_is_offered_by_some_type() -> None:
    offered = {task for name in MODEL_TYPES for task in family_of(name).tasks}
    assert offered - {"Backbone"} == set(TASKS)


def test_an_unknown_auto_class_names_the_known() -> None:
    with pytest.raises(
        AttributeError, match="there is no AutoModelForTea; jaxformers has AutoConfig.*AutoModelForCausalLM"
    ):
        jf.AutoModelForTea  # noqa: B018
