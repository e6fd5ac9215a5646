"""Hugging Face checkpoints as pure JAX functions. Names are imported when first used: `import jaxformers` is free."""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxformers.adapters.load import load_adapter
    from jaxformers.adapters.lora import lora
    from jaxformers.adapters.merge import merge_adapters, unmerge_adapters
    from jaxformers.core.config import Config
    from jaxformers.core.keymap import KeyMap, Part
    from jaxformers.core.mesh import make_mesh
    from jaxformers.core.sharding import (
        DATA,
        EXPERT,
        FSDP,
        FSDP_TENSOR,
        PIPELINE,
        REPLICATED,
        SEQUENCE,
        TENSOR,
        in_stages,
    )
    from jaxformers.generation.config import GenerationConfig
    from jaxformers.generation.streaming import AsyncTextIteratorStreamer, TextIteratorStreamer, TextStreamer
    from jaxformers.generation.transform import chain
    from jaxformers.hub.auto import AutoBackbone, AutoConfig, AutoModel
    from jaxformers.hub.auto_feature_extractor import AutoFeatureExtractor
    from jaxformers.hub.auto_image_processor import AutoImageProcessor, AutoVideoProcessor
    from jaxformers.hub.auto_processor import AutoProcessor
    from jaxformers.hub.auto_tokenizer import AutoTokenizer
    from jaxformers.hub.layout import restack
    from jaxformers.hub.model import Model
    from jaxformers.hub.rounded import Rounding
    from jaxformers.hub.shardings import shardings
    from jaxformers.models import register
    from jaxformers.pipelines.embed import Embedder
    from jaxformers.pipelines.tasks import pipeline
    from jaxformers.quantization.errors import quantization_errors
    from jaxformers.quantization.quantize import dequantize, quantize
    from jaxformers.training.arguments import TrainingArguments
    from jaxformers.training.callbacks import EarlyStoppingCallback, TrainerCallback
    from jaxformers.training.checkpoints import Checkpoints
    from jaxformers.training.data.device import to_device
    from jaxformers.training.data.loader import DataLoader
    from jaxformers.training.evaluate import make_eval_step
    from jaxformers.training.losses.choose import loss_for
    from jaxformers.training.losses.output import LossOutput
    from jaxformers.training.metrics.choice import metric, metrics_for
    from jaxformers.training.optimizers import optimizer
    from jaxformers.training.schedules import schedule
    from jaxformers.training.state import TrainState
    from jaxformers.training.step import make_train_step
    from jaxformers.training.trainer import Trainer

    # Generated in hub.auto from its table of tasks; a checker needs to read their names.
    AutoModelForAudioClassification = AutoModel
    AutoModelForAudioFrameClassification = AutoModel
    AutoModelForAudioXVector = AutoModel
    AutoModelForCTC = AutoModel
    AutoModelForCausalLM = AutoModel
    AutoModelForDecision = AutoModel
    AutoModelForImageClassification = AutoModel
    AutoModelForImageSegmentation = AutoModel
    AutoModelForImageTextToText = AutoModel
    AutoModelForMaskedImageModeling = AutoModel
    AutoModelForMaskedLM = AutoModel
    AutoModelForMultimodalLM = AutoModel
    AutoModelForMultipleChoice = AutoModel
    AutoModelForNextSentencePrediction = AutoModel
    AutoModelForObjectDetection = AutoModel
    AutoModelForPreTraining = AutoModel
    AutoModelForQuestionAnswering = AutoModel
    AutoModelForSeq2SeqLM = AutoModel
    AutoModelForSequenceClassification = AutoModel
    AutoModelForSpeechSeq2Seq = AutoModel
    AutoModelForTextEncoding = AutoModel
    AutoModelForTokenClassification = AutoModel
    AutoModelForUniversalSegmentation = AutoModel
    AutoModelForZeroShotImageClassification = AutoModel

_HOME = {
    "load_adapter": "adapters.load",
    "lora": "adapters.lora",
    "merge_adapters": "adapters.merge",
    "unmerge_adapters": "adapters.merge",
    "Config": "core.config",
    "KeyMap": "core.keymap",
    "Part": "core.keymap",
    "DATA": "core.sharding",
    "EXPERT": "core.sharding",
    "FSDP": "core.sharding",
    "FSDP_TENSOR": "core.sharding",
    "PIPELINE": "core.sharding",
    "REPLICATED": "core.sharding",
    "SEQUENCE": "core.sharding",
    "TENSOR": "core.sharding",
    "in_stages": "core.sharding",
    "make_mesh": "core.mesh",
    "GenerationConfig": "generation.config",
    "AsyncTextIteratorStreamer": "generation.streaming",
    "TextIteratorStreamer": "generation.streaming",
    "TextStreamer": "generation.streaming",
    "chain": "generation.transform",
    "AutoFeatureExtractor": "hub.auto_feature_extractor",
    "AutoImageProcessor": "hub.auto_image_processor",
    "AutoVideoProcessor": "hub.auto_image_processor",
    "AutoProcessor": "hub.auto_processor",
    "AutoTokenizer": "hub.auto_tokenizer",
    "restack": "hub.layout",
    "Model": "hub.model",
    "Rounding": "hub.rounded",
    "shardings": "hub.shardings",
    "register": "models",
    "Embedder": "pipelines.embed",
    "pipeline": "pipelines.tasks",
    "quantization_errors": "quantization.errors",
    "dequantize": "quantization.quantize",
    "quantize": "quantization.quantize",
    "TrainingArguments": "training.arguments",
    "EarlyStoppingCallback": "training.callbacks",
    "TrainerCallback": "training.callbacks",
    "Checkpoints": "training.checkpoints",
    "to_device": "training.data.device",
    "DataLoader": "training.data.loader",
    "metric": "training.metrics.choice",
    "metrics_for": "training.metrics.choice",
    "LossOutput": "training.losses.output",
    "make_eval_step": "training.evaluate",
    "make_train_step": "training.step",
    "Trainer": "training.trainer",
    "optimizer": "training.optimizers",
    "schedule": "training.schedules",
    "TrainState": "training.state",
    "loss_for": "training.losses.choose",
    **dict.fromkeys(("AutoBackbone", "AutoConfig", "AutoModel"), "hub.auto"),
}

if not TYPE_CHECKING:  # a checker that saw __getattr__ would accept any misspelt name

    def __getattr__(name: str) -> object:
        """Import the module that defines a public name; every other `Auto...` name is generated by hub.auto."""
        home = _HOME.get(name) or ("hub.auto" if name.startswith("Auto") else None)
        if home is None:
            raise AttributeError(f"module 'jaxformers' has no attribute {name!r}; dir(jaxformers) lists its names")
        value = getattr(importlib.import_module(f"jaxformers.{home}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """All public names. Completion may import the table of tasks, so this is not free as `import jaxformers` is."""
    from jaxformers.hub.auto import TASKS

    return sorted({*globals(), *_HOME, *(f"AutoModelFor{task}" for task in TASKS)})
