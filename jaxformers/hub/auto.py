"""AutoConfig, AutoModel and every AutoModelFor...: names for `Model.from_pretrained` with a task."""

from pathlib import Path
from typing import Any, ClassVar

import jax

from jaxformers.core.config import Config
from jaxformers.hub.model import Model
from jaxformers.hub.pretrained import load_config, load_pretrained
from jaxformers.models import read_config

# The end of each transformers auto class that some supported type has. Values are what Family.tasks is asked for.
TASKS = {
    "AudioClassification": "AudioClassification",
    "AudioFrameClassification": "AudioFrameClassification",
    "AudioXVector": "AudioXVector",
    "CTC": "CTC",
    "CausalLM": "CausalLM",
    "Decision": "Decision",
    "ImageClassification": "ImageClassification",
    "ImageSegmentation": "ImageSegmentation",
    "ImageTextToText": "ImageTextToText",
    "MaskedImageModeling": "MaskedImageModeling",
    "MaskedLM": "MaskedLM",
    "MultimodalLM": "MultimodalLM",
    "MultipleChoice": "MultipleChoice",
    "NextSentencePrediction": "NextSentencePrediction",
    "ObjectDetection": "ObjectDetection",
    "PreTraining": "PreTraining",
    "QuestionAnswering": "QuestionAnswering",
    "Seq2SeqLM": "Seq2SeqLM",
    "SequenceClassification": "SequenceClassification",
    "SpeechSeq2Seq": "SpeechSeq2Seq",
    "TextEncoding": "TextEncoding",
    "TokenClassification": "TokenClassification",
    "UniversalSegmentation": "UniversalSegmentation",
    "ZeroShotImageClassification": "ZeroShotImageClassification",
}


class AutoConfig:
    """Reads a config of any supported type."""

    @staticmethod
    def from_pretrained(source: str | Path, **kwargs: Any) -> Config:
        """Read config.json from a folder or a Hub id; keywords override its fields."""
        return load_config(source, **kwargs)

    @staticmethod
    def for_model(model_type: str, **fields: Any) -> Config:
        """Make a config of a type, `AutoConfig.for_model("llama", hidden_size=64)`, with transformers' defaults."""
        return read_config({"model_type": model_type, **fields})


class AutoModel:
    """Loads the base model of any supported type."""

    task: ClassVar[str | None] = None

    @classmethod
    def from_pretrained(cls, source: str | Path, **kwargs: Any) -> Model:
        """Load a checkpoint; the arguments are `jaxformers.hub.pretrained.load_pretrained`'s."""
        return load_pretrained(Model, source, task=cls.task, **kwargs)

    @classmethod
    def from_config(cls, config: Config, key: jax.Array, **kwargs: Any) -> Model:
        """Make a model with fresh parameters; the arguments are `Model.init`'s."""
        return Model.init(config, key, task=cls.task, **kwargs)


class AutoBackbone(AutoModel):
    """Loads a vision model that returns the feature maps of chosen stages."""

    task = "Backbone"


def auto_class(task: str) -> type[AutoModel]:
    """The class for one task."""
    doc = f"Loads any supported type that has a head for {task}."
    return type(f"AutoModelFor{task}", (AutoModel,), {"task": TASKS[task], "__doc__": doc, "__module__": __name__})


globals().update({f"AutoModelFor{task}": auto_class(task) for task in TASKS})


def __getattr__(name: str) -> Any:
    known = ", ".join(f"AutoModelFor{t}" for t in TASKS)
    raise AttributeError(f"there is no {name}; jaxformers has AutoConfig, AutoModel, AutoBackbone, {known}")
