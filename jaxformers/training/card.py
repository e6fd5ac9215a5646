"""The model card of a run: what the model is, how it was trained, and how it did."""

from pathlib import Path
from typing import Any

from jaxformers.training.summary import shown, table

LIBRARY = "jaxformers"
# The Hub's names of tasks, by ours.
TASKS = {
    "CausalLM": "text-generation",
    "MaskedLM": "fill-mask",
    "Seq2SeqLM": "text2text-generation",
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
    "QuestionAnswering": "question-answering",
    "ImageClassification": "image-classification",
    "ObjectDetection": "object-detection",
    "CTC": "automatic-speech-recognition",
    "SpeechSeq2Seq": "automatic-speech-recognition",
    "AudioClassification": "audio-classification",
}
SHOWN = (
    "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps",
    "optim", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm", "lr_scheduler_type",
    "warmup_steps", "label_smoothing_factor", "bf16", "fp16", "seed",
)  # fmt: skip


def write_card(
    trainer: Any,
    name: str,
    *,
    language: str | None = None,
    license: str | None = None,
    tags: str | list[str] | None = None,
    finetuned_from: str | None = None,
    dataset: str | list[str] | None = None,
) -> Path:
    """Write README.md into the output folder; fields are those of the Hub's metadata."""
    import yaml

    tags = [tags] if isinstance(tags, str) else list(tags or [])
    fields = {
        "library_name": LIBRARY,
        "language": language,
        "license": license,
        "base_model": finetuned_from,
        "datasets": [dataset] if isinstance(dataset, str) else dataset,
        "pipeline_tag": TASKS.get(trainer.model.task),
        "tags": ["generated_from_trainer", *tags],
    }
    kept = {name: value for name, value in fields.items() if value}
    title = name.rpartition("/")[2]
    text = f"---\n{yaml.safe_dump(kept, sort_keys=False)}---\n\n" + body(trainer, title, finetuned_from)
    path = Path(trainer.args.output_dir) / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def body(trainer: Any, title: str, base: str | None) -> str:
    """The card's text."""
    args, state, config = trainer.args, trainer.state, trainer.model.config
    origin = f"fine-tuned from [{base}](https://huggingface.co/{base})" if base else f"a {config.model_type} model"
    evaluated = [entry for entry in state.log_history if "eval_loss" in entry]
    lines = [f"# {title}", "", f"This model is {origin}, trained for {state.global_step:,} steps with jaxformers.", ""]
    if evaluated:
        lines += ["## Results", ""]
        lines += [f"- {name}: {shown(value)}" for name, value in evaluated[-1].items() if name.startswith("eval_")]
        lines.append("")
    lines += ["## Training", "", *(f"- {name}: {getattr(args, name)}" for name in SHOWN), ""]
    lines += table(state.log_history)
    return "\n".join(lines) + "\n"
