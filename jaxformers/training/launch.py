"""From a recipe to a Trainer: the model loaded or made on its mesh, its processor, its data, and LoRA."""

from pathlib import Path
from typing import Any

import jax

from jaxformers.adapters.lora import lora
from jaxformers.core.config import Config
from jaxformers.core.errors import ConfigError
from jaxformers.hub.auto import AutoConfig
from jaxformers.hub.auto_image_processor import AutoImageProcessor
from jaxformers.hub.auto_processor import AutoProcessor
from jaxformers.hub.auto_tokenizer import AutoTokenizer
from jaxformers.hub.model import Model
from jaxformers.models import read_config
from jaxformers.training import assembly
from jaxformers.training.arguments import TrainingArguments
from jaxformers.training.metrics.choice import metrics_for
from jaxformers.training.recipe import Recipe, expected
from jaxformers.training.recipe_data import make_data
from jaxformers.training.trainer import Trainer

MODEL = ("name", "config", "task", "processor", "scan", "dtype", "overrides")
PICTURES = (
    "ImageClassification",
    "ObjectDetection",
    "ImageSegmentation",
    "MaskedImageModeling",
    "UniversalSegmentation",
)
MIXED = ("ZeroShotImageClassification", "ImageTextToText", "MultimodalLM", "CTC", "SpeechSeq2Seq")
MIXED += ("AudioClassification", "AudioFrameClassification", "AudioXVector")
# Tasks whose predictions are small, so that their metrics cost nothing; scores of all words are only taken when asked.
MEASURED = ("SequenceClassification", "ImageClassification", "TokenClassification", "AudioClassification")


def make_trainer(recipe: Recipe) -> Trainer:
    """The Trainer of a recipe. Raises ConfigError, CheckpointError and DataError for what does not fit together."""
    check_names("model", recipe.model, MODEL)
    args = recipe.arguments()
    mesh, rules = assembly.place_of(args)
    model = make_model(recipe.model, args, mesh=mesh, rules=rules)
    processor = make_processor(recipe.model, model.task)
    data = make_data(recipe.data, model, processor)
    if recipe.lora:
        model = lora(model, key=jax.random.fold_in(jax.random.key(args.seed), 1), **recipe.lora)
    measured = recipe.data.get("metrics", model.task in MEASURED)
    return Trainer(
        model,
        args,
        data_collator=data.collator,
        train_dataset=data.train,
        eval_dataset=data.eval,
        processing_class=processor,
        compute_metrics=metrics_for(model, tokenizer=processor) if measured else None,
    )


def make_model(section: dict[str, Any], args: TrainingArguments, **places: Any) -> Model:
    """Load `name`, or make a model of `config` (a folder, a file, a Hub id or a table) with fresh parameters.

    A table of fields, `overrides`, takes the place of the config's.
    """
    source_of(section)
    options = {"scan": section.get("scan", True), "dtype": section.get("dtype"), **places}
    key, fields = jax.random.key(args.seed), section.get("overrides", {})
    if "name" in section:
        task = {"task": section["task"]} if "task" in section else {}
        return Model.from_pretrained(section["name"], key=key, **task, **options, **fields)
    if "task" not in section:
        raise ConfigError("[model] begins anew with a config: say which task, such as 'CausalLM'")
    return Model.init(config_of(section), key, task=section["task"], **options)


def source_of(section: dict[str, Any]) -> Any:
    """What [model] names: a checkpoint, or a config. Raises ConfigError unless it is one of the two."""
    given = [name for name in ("name", "config") if name in section]
    if len(given) != 1:
        raise ConfigError(
            f"[model] needs name, to load, or config, to begin anew; it has {' and '.join(given) or 'none'}"
        )
    return section[given[0]]


def config_of(section: dict[str, Any]) -> Config:
    """The config of [model]: a checkpoint's, a file's, or the table itself; `overrides` take its fields' places."""
    raw, fields = source_of(section), section.get("overrides", {})
    return read_config(raw, **fields) if isinstance(raw, dict) else AutoConfig.from_pretrained(raw, **fields)


def make_processor(section: dict[str, Any], task: str | None) -> Any:
    """The tokenizer, image processor or processor beside the model; None for a new model that names none."""
    source = section.get("processor", section.get("name"))
    if not source:  # also `processor = ""`, for rows that are tokens already
        return None
    kind = AutoImageProcessor if task in PICTURES else AutoProcessor if task in MIXED else AutoTokenizer
    return kind.from_pretrained(source)


def check_names(section: str, values: dict[str, Any], known: tuple[str, ...]) -> None:
    """Refuse what a section does not have. Raises ConfigError."""
    if strange := [name for name in values if name not in known]:
        raise ConfigError(f"[{section}] has {strange[0]}; {expected(strange[0], known)}")


def run(recipe: Recipe, resume: str | bool | None = None) -> dict[str, Any]:
    """Train as a recipe says, evaluate, and write the model, metrics and the recipe into the output folder."""
    trainer = make_trainer(recipe)
    folder = Path(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        folder.mkdir(parents=True, exist_ok=True)
        recipe.write(folder / "recipe.toml")
    metrics = dict(trainer.train(resume_from_checkpoint=resume).metrics)
    trainer.save_metrics("train", metrics)
    if trainer.eval_dataset is not None:
        found = trainer.evaluate()
        trainer.save_metrics("eval", found)
        metrics |= found
    trainer.save_model()
    trainer.save_state()
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
    return metrics
