"""`pipeline(task, model)`: the table of tasks, and how a pipeline's parts are found."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxformers.hub.auto_processor import AutoProcessor, load_part
from jaxformers.hub.download import resolve
from jaxformers.hub.model import Model
from jaxformers.hub.pretrained import load_config, load_pretrained
from jaxformers.models import family_of, task_of
from jaxformers.pipelines.pipeline import Pipeline

# task -> "module:class" under jaxformers.pipelines, imported when asked for.
TASKS: dict[str, str] = {
    "audio-classification": "audio_classification:AudioClassification",
    "automatic-speech-recognition": "speech_recognition:SpeechRecognition",
    "feature-extraction": "features:FeatureExtraction",
    "fill-mask": "fill_mask:FillMask",
    "image-classification": "image_classification:ImageClassification",
    "image-feature-extraction": "image_features:ImageFeatureExtraction",
    "image-text-to-text": "image_text_to_text:ImageTextToText",
    "image-to-text": "image_to_text:ImageToText",
    "object-detection": "object_detection:ObjectDetection",
    "question-answering": "question_answering:QuestionAnswering",
    "sentence-similarity": "similarity:SentenceSimilarity",
    "summarization": "text_to_text:Summarization",
    "text-classification": "text_classification:TextClassification",
    "text-generation": "text_generation:TextGeneration",
    "text2text-generation": "text_to_text:TextToText",
    "token-classification": "token_classification:TokenClassification",
    "translation": "text_to_text:Translation",
    "zero-shot-classification": "zero_shot:ZeroShotClassification",
    "zero-shot-image-classification": "zero_shot_images:ZeroShotImageClassification",
}
ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification", "vqa": "image-text-to-text"}
# What each task loads when no model is named: transformers' own choices, where their type is supported.
DEFAULTS = {
    "automatic-speech-recognition": "facebook/wav2vec2-base-960h",
    "feature-extraction": "distilbert/distilbert-base-cased",
    "fill-mask": "distilbert/distilroberta-base",
    "image-classification": "google/vit-base-patch16-224",
    "image-feature-extraction": "google/vit-base-patch16-224",
    "audio-classification": "superb/wav2vec2-base-superb-ks",
    "object-detection": "facebook/detr-resnet-50",
    "question-answering": "distilbert/distilbert-base-cased-distilled-squad",
    "sentence-similarity": "sentence-transformers/all-MiniLM-L6-v2",
    "summarization": "sshleifer/distilbart-cnn-12-6",
    "text-classification": "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
    "text-generation": "HuggingFaceTB/SmolLM3-3B",
    "text2text-generation": "google-t5/t5-base",
    "token-classification": "dbmdz/bert-large-cased-finetuned-conll03-english",
    "translation": "google-t5/t5-base",
    "zero-shot-classification": "facebook/bart-large-mnli",
    "zero-shot-image-classification": "openai/clip-vit-base-patch32",
}
# Which task a model's own head stands for, where none is named.
OF_HEAD = {
    "AudioClassification": "audio-classification",
    "CTC": "automatic-speech-recognition",
    "SpeechSeq2Seq": "automatic-speech-recognition",
    "CausalLM": "text-generation",
    "ImageClassification": "image-classification",
    "ImageTextToText": "image-text-to-text",
    "MaskedLM": "fill-mask",
    "ObjectDetection": "object-detection",
    "QuestionAnswering": "question-answering",
    "Seq2SeqLM": "text2text-generation",
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
    "ZeroShotImageClassification": "zero-shot-image-classification",
}
HUB = ("revision", "cache_dir", "token", "local_files_only")
LOADING = ("dtype", "compute_dtype", "mesh", "rules", "scan", "quantize")


def task_class(task: str) -> tuple[type[Pipeline], dict[str, str]]:
    """The pipeline of a task, and options its name holds: `translation_en_to_de`.

    Raises ValueError with the nearest names for a task that is unknown.
    """
    name, options = ALIASES.get(task, task), {}
    if name.startswith("translation_"):
        parts = name.removeprefix("translation_").split("_to_")
        if len(parts) != 2:
            raise ValueError(f"{task!r} names no languages; expected translation_XX_to_YY")
        name, options = "translation", {"src_lang": parts[0], "tgt_lang": parts[1]}
    if name not in TASKS:
        near = difflib.get_close_matches(name, [*TASKS, *ALIASES], n=3, cutoff=0.4)
        raise ValueError(f"there is no task {task!r}; nearest: {', '.join(near) or 'none'}; all: {', '.join(TASKS)}")
    module, attribute = TASKS[name].split(":")
    return getattr(importlib.import_module(f"jaxformers.pipelines.{module}"), attribute), options


def task_of_model(model: Model | str | Path | None, hub: Mapping[str, Any]) -> str:
    """The task that a model's own head is for. Raises ValueError when the head does not say."""
    if model is None:
        raise ValueError("give pipeline a task, a model, or both")
    head = model.task if isinstance(model, Model) else task_of(load_config(model, **hub))
    if head not in OF_HEAD:
        raise ValueError(f"a model with the head {head} stands for no one task; name it: pipeline(task, model=...)")
    return OF_HEAD[head]


def load_model(kind: type[Pipeline], source: str | Path, options: Mapping[str, Any]) -> Model:
    """Load with the first of the task's heads that the model's type has, its own head before others."""
    config = load_config(source, **{k: options[k] for k in HUB if k in options})
    family = family_of(config.model_type)
    own = task_of(config)
    heads = [h for h in kind.heads if h is None or h in family.tasks]
    if not heads:
        wanted = " or ".join(str(h) for h in kind.heads)
        raise ValueError(f"{kind.task} needs a head for {wanted}; {config.model_type} has {', '.join(family.tasks)}")
    return load_pretrained(Model, source, task=own if own in heads else heads[0], **options)


def load_own(name: str, source: str | Path, hub: Mapping[str, Any]) -> Any:
    """Load a part, or the processor, which holds several."""
    return AutoProcessor.from_pretrained(source, **hub) if name == "processor" else load_part(name, source, dict(hub))


def pipeline(
    task: str | None = None,
    model: Model | str | Path | None = None,
    *,
    tokenizer: Any = None,
    image_processor: Any = None,
    feature_extractor: Any = None,
    processor: Any = None,
    config: Any = None,
    model_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Pipeline:
    """Make a callable that goes from raw inputs to answers: `pipeline("text-classification", "./model")("a text")`.

    Parts that are not given are loaded from the model's own folder. Keywords of loading (dtype, mesh, rules, revision,
    token, ...) go to from_pretrained, others are the task's options. Raises ValueError for a task or part that is
    unknown or missing.
    """
    loading = {k: options.pop(k) for k in (*HUB, *LOADING) if k in options} | dict(model_kwargs or {})
    if "torch_dtype" in options:
        loading["dtype"] = str(options.pop("torch_dtype")).removeprefix("torch.")
    hub = {k: loading[k] for k in HUB if k in loading}
    kind, implied = task_class(task if task is not None else task_of_model(model, hub))
    source: str | Path | None = None
    if model is None:
        source = DEFAULTS.get(kind.task)
        if source is None:
            raise ValueError(f"{kind.task} has no usual model: pass model=")
        print_default(kind.task, str(source))
    elif not isinstance(model, Model):
        source = model
    if source is not None:
        source = resolve(source, **hub)
        found = load_model(kind, source, {**loading, **({} if config is None else {"config": config})})
    else:
        found = model  # type: ignore[assignment]
    given = {
        "tokenizer": tokenizer,
        "image_processor": image_processor,
        "feature_extractor": feature_extractor,
        "processor": processor,
    }
    for name, part in given.items():
        if isinstance(part, (str, Path)):
            given[name] = load_own(name, part, hub)
        elif part is None and name in kind.parts and source is not None:
            if name == "processor" or getattr(given.get("processor"), name, None) is None:
                given[name] = load_own(name, source, hub)
    return kind(found, source=source, **given, **{**implied, **options})  # type: ignore[arg-type]


def print_default(task: str, source: str) -> None:
    """Say which model was chosen, for a result that can be repeated."""
    import logging

    logging.getLogger(__name__).warning("no model was named for %s: loading %s; name one to be sure", task, source)
