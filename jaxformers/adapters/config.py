"""adapter_config.json: what peft writes in it, what of it we understand, and what is refused."""

import math
import re
from collections.abc import Mapping
from typing import Any

from jaxformers.core.errors import AdapterError

FILE = "adapter_config.json"
PREFIX = "base_model.model."  # of every name in the file of weights
# As peft 0.21 writes them. What else its LoraConfig has is at its default, and so need not stand in the file.
DEFAULTS: Mapping[str, Any] = {
    "alpha_pattern": {},
    "auto_mapping": None,
    "base_model_name_or_path": None,
    "bias": "none",
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layers_pattern": None,
    "layers_to_transform": None,
    "lora_alpha": 8,
    "lora_bias": False,
    "lora_dropout": 0.0,
    "modules_to_save": None,
    "peft_type": "LORA",
    "r": 8,
    "rank_pattern": {},
    "revision": None,
    "target_modules": None,
    "target_parameters": None,
    "task_type": None,
    "use_dora": False,
    "use_rslora": False,
}
# These change nothing once the weights are there, or only how they were first made.
HARMLESS = {
    *("corda_config", "eva_config", "loftq_config", "lora_ga_config", "runtime_config", "megatron_core"),
    *("peft_version", "qalora_group_size", "ensure_weight_tying", "velora_config"),
}
# First values that also change the base weights: the file fits no plain checkpoint.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
BIASES = ("none", "all", "lora_only")
TASK_TYPES = {
    None: "FEATURE_EXTRACTION",
    "CausalLM": "CAUSAL_LM",
    "QuestionAnswering": "QUESTION_ANS",
    "Seq2SeqLM": "SEQ_2_SEQ_LM",
    "SequenceClassification": "SEQ_CLS",
    "TokenClassification": "TOKEN_CLS",
}
# Heads that peft trains whole for these types, whether or not they are named.
HEADS = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score"), "QUESTION_ANS": ("qa_outputs",)}


def check(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The config with peft's defaults filled in. Raises AdapterError for what we do not do.

    where: the file, for the message.
    """
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{where}: peft_type is {kind!r}; only LORA adapters are read. Merge it with peft instead")
    config = {**DEFAULTS, **raw}
    for name, value in config.items():
        if name not in DEFAULTS and name not in HARMLESS and value not in (None, False, "", [], {}):
            raise AdapterError(f"{where}: {name} is {value!r}, which is not known here. Merge the adapter with peft")
    for name in ("use_dora", "lora_bias", "target_parameters"):
        if config[name]:
            raise AdapterError(f"{where}: {name} is not supported. Merge the adapter with peft instead")
    start = str(config["init_lora_weights"]).lower()
    if start.startswith(CHANGES_BASE):
        advice = "save it with peft's path_initial_model_for_weight_conversion, which makes a plain adapter of it"
        raise AdapterError(f"{where}: init_lora_weights={start!r} changed the base model's weights too; {advice}")
    if config["bias"] not in BIASES:
        raise AdapterError(f"{where}: bias is {config['bias']!r}; expected one of {', '.join(BIASES)}")
    if not isinstance(config["r"], int) or config["r"] < 1:
        raise AdapterError(f"{where}: the rank is {config['r']!r}; expected a whole number of at least one")
    return config


def rank_of(config: Mapping[str, Any], name: str) -> int:
    """The rank of one module."""
    return int(by_pattern(config["rank_pattern"], name, config["r"]))


def scale_of(config: Mapping[str, Any], name: str, rank: int) -> float:
    """What the product of one module is multiplied by: alpha / rank, or alpha / sqrt(rank)."""
    alpha = by_pattern(config["alpha_pattern"], name, config["lora_alpha"])
    return float(alpha) / (math.sqrt(rank) if config["use_rslora"] else rank)


def by_pattern(patterns: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """The value of the first pattern that fits the end of a name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default


def in_layers(config: Mapping[str, Any], name: str) -> bool:
    """Whether a module is in one of the layers that the config asks for."""
    layers = config["layers_to_transform"]
    if layers is None or layers == [] or layers == ():
        return True
    wanted = (layers,) if isinstance(layers, int) else tuple(layers)
    lists = config["layers_pattern"] or ()
    found = None
    for pattern in (lists,) if isinstance(lists, str) else lists:
        found = found or re.match(rf"(?:^|.*?\.){pattern}\.(?P<layer>\d+)\.", name)
    if not lists:
        found = re.match(r".*?\.[^.]*\.(?P<layer>\d+)\.", name)
    return found is not None and int(found["layer"]) in wanted
