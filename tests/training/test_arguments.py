"""TrainingArguments: transformers' names and defaults, what PyTorch alone can mean, contradictions."""

import dataclasses
import logging
from types import SimpleNamespace

import pytest
import transformers

from jaxformers.core.errors import ConfigError
from jaxformers.training import argument_names
from jaxformers.training.arguments import TrainingArguments

THEIRS = {f.name for f in dataclasses.fields(transformers.TrainingArguments)}
OURS = {f.name for f in dataclasses.fields(TrainingArguments)}
# Where our default differs, and why.
DIFFERENT = {
    "optim",  # theirs names PyTorch's kernel: adamw_torch_fused
    "disable_tqdm",  # a bar where there is a terminal
    "enable_jit_checkpoint",  # a run that is told to end saves first
    "lr_scheduler_kwargs", "optim_args", "gradient_checkpointing_kwargs",  # nothing is {} and not None
}  # fmt: skip


def test_every_argument_of_transformers_has_an_answer() -> None:
    tables = (argument_names.RENAMED, argument_names.MAPPED, argument_names.WITHOUT_EFFECT, argument_names.REFUSED)
    answered = OURS.union(*tables)
    assert not THEIRS - answered
    assert not OURS & set().union(*tables), "an argument that we have must not be translated away"


def test_defaults_are_transformers() -> None:
    theirs, ours = transformers.TrainingArguments("out", use_cpu=True), TrainingArguments("out")
    for name in sorted(OURS & THEIRS - DIFFERENT):
        value = getattr(theirs, name)
        assert getattr(ours, name) == getattr(value, "value", value), name


def test_derived_values_are_transformers() -> None:
    given = dict(eval_strategy="steps", logging_steps=7, load_best_model_at_end=True, save_steps=14, warmup_steps=0.1)
    theirs, ours = transformers.TrainingArguments("out", use_cpu=True, **given), TrainingArguments("out", **given)
    for name in ("eval_steps", "do_eval", "metric_for_best_model", "greater_is_better", "save_steps"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for steps in (1, 95, 1000):
        assert ours.get_warmup_steps(steps) == theirs.get_warmup_steps(steps)
    assert ours.replace(metric_for_best_model="f1", greater_is_better=None).greater_is_better is True


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"evaluation_strategy": "epoch"}, {"eval_strategy": "epoch"}),
        ({"warmup_ratio": 0.2}, {"warmup_steps": 0.2}),
        ({"activation_checkpointing": True}, {"remat": "full"}),
        ({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": '{"policy": "dots_saveable"}'},
         {"remat": "dots_saveable"}),
        ({"activation_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
         {"remat": "full"}),
        ({"fsdp": "full_shard auto_wrap"}, {"rules": "FSDP"}),
        ({"fsdp": True, "fsdp_config": {"activation_checkpointing": True}}, {"rules": "FSDP", "remat": "full"}),
        ({"fsdp": ["no_shard"]}, {"rules": "DATA"}),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, {"rules": "FSDP"}),
        ({"deepspeed": '{"train_batch_size": "auto"}'}, {"rules": "DATA"}),
        ({"parallelism_config": SimpleNamespace(dp_shard_size=4, tp_size=2)},
         {"mesh": {"fsdp": 4, "tensor": 2}, "rules": "FSDP_TENSOR"}),
        ({"group_by_length": True}, {"train_sampling_strategy": "group_by_length"}),
        ({"optim_args": "b1=0.8, flag=True"}, {"optim_args": {"b1": 0.8, "flag": True}}),
        ({"report_to": "wandb, csv"}, {"report_to": ["wandb", "csv"]}),
        ({"include_num_input_tokens_seen": True}, {"include_num_input_tokens_seen": "all"}),
        ({"bf16": True}, {"compute_dtype": "bfloat16", "eval_dtype": "bfloat16"}),
        ({"use_cpu": True, "torch_compile": True, "ddp_timeout": 5}, {}),
    ],
)  # fmt: skip
def test_other_names(given: dict, expected: dict) -> None:
    args = TrainingArguments("out", **given)
    assert {name: getattr(args, name) for name in expected} == expected


def test_transformers_enums_are_welcome() -> None:
    theirs = transformers.TrainingArguments("out", use_cpu=True, lr_scheduler_type="cosine", save_strategy="epoch")
    ours = TrainingArguments(
        **{name: getattr(theirs, name) for name in ("lr_scheduler_type", "save_strategy", "optim")}
    )
    assert (ours.lr_scheduler_type, ours.save_strategy, ours.optim) == ("cosine", "epoch", "adamw_torch_fused")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rat": 1}, "did you mean learning_rate"),
        ({"fsdp": "full_shard offload"}, "offload.*cannot be had"),
        ({"deepspeed": {"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}}, "offload_param"),
        ({"optim_target_modules": ["attn"]}, "GaLore"),
        ({"debug": "underflow_overflow"}, "nan_policy"),
        ({"eval_strategy": "sometimes"}, "no, steps, epoch"),
        ({"bf16": True, "fp16": True}, "at most one"),
        ({"load_best_model_at_end": True}, "eval_strategy and save_strategy"),
        ({"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 4, "save_steps": 6}, "multiple"),
        ({"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 0.1, "save_steps": 6}, "share"),
        ({"logging_steps": 1.5}, "whole"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "watches evaluations"),
        ({"gradient_checkpointing_kwargs": {"every_n_layers": 2}}, "policy"),
        ({"profile_steps": [3, 2]}, "first, last"),
        ({"per_device_train_batch_size": 0}, "1 or more"),
    ],
)  # fmt: skip
def test_refusals(given: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingArguments("out", **given)


def test_what_has_no_effect_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "jaxformers"):
        TrainingArguments("out", torch_compile=True, ddp_backend=None)
    assert "torch_compile=True has no effect: every step is compiled" in caplog.text
    assert "ddp_backend" not in caplog.text


def test_tokens_are_hidden() -> None:
    assert TrainingArguments("out", hub_token="hf_secret").to_dict()["hub_token"] == "<HUB_TOKEN>"
