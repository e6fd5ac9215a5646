"""transformers' other names for arguments: older ones, PyTorch's parallelism as a mesh, and what means nothing here."""

import difflib
import json
import logging
from pathlib import Path
from typing import Any

from jaxformers.core.errors import ConfigError

log = logging.getLogger("jaxformers")

# Spellings of transformers 4, and names that 5 has for the same thing.
RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "warmup_ratio": "warmup_steps",
    "activation_checkpointing": "gradient_checkpointing",
    "activation_checkpointing_kwargs": "gradient_checkpointing_kwargs",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "hub_token_id": "hub_token",
}
ALWAYS = "every step is compiled by XLA"
ONE_PROGRAM = "one program runs on all devices, and XLA places its collectives"
LOADER = "batches are made in threads and put on the devices ahead of time"
# What has no counterpart and changes no result: accepted, with one line that says why it does nothing.
WITHOUT_EFFECT = {
    "torch_compile": ALWAYS,
    "torch_compile_backend": ALWAYS,
    "torch_compile_mode": ALWAYS,
    "jit_mode_eval": ALWAYS,
    "torch_empty_cache_steps": "XLA plans memory ahead of time",
    "use_liger_kernel": "the chunked cross-entropy and fused kernels are used where they apply",
    "liger_kernel_config": "the chunked cross-entropy and fused kernels are used where they apply",
    "average_tokens_across_devices": "losses are always weighted by all devices' tokens",
    "use_cache": "training never fills a cache",
    "skip_memory_metrics": "device memory is logged with the throughput",
    "dataloader_pin_memory": LOADER,
    "dataloader_persistent_workers": LOADER,
    "dataloader_multiprocessing_context": LOADER,
    "dataloader_in_order": "batches always come in order",
    "eval_use_gather_object": "outputs are gathered as arrays",
    "log_on_each_node": "the first process logs",
    "log_level_replica": "the first process logs",
    "save_on_each_node": "all processes write one checkpoint together",
    "save_safetensors": "weights are always saved as safetensors",
    "overwrite_output_dir": "checkpoints are added to the folder; resume_from_checkpoint decides whether they are read",
    "logging_nan_inf": "see logging_nan_inf_filter",
    "local_rank": ONE_PROGRAM,
    "ddp_find_unused_parameters": ONE_PROGRAM,
    "ddp_bucket_cap_mb": ONE_PROGRAM,
    "ddp_broadcast_buffers": ONE_PROGRAM,
    "ddp_static_graph": ONE_PROGRAM,
    "ddp_backend": ONE_PROGRAM,
    "ddp_timeout": ONE_PROGRAM,
    "trackio_space_id": "Trackio is not among the reporters",
    "trackio_bucket_id": "Trackio is not among the reporters",
    "trackio_static_space_id": "Trackio is not among the reporters",
}
# What would change the run and cannot be had: refused, with what to do instead.
REFUSED = {
    "accelerator_config": "Accelerate has no part here: say mesh= and rules=, and gradient_accumulation_steps",
    "optim_target_modules": "GaLore and APOLLO are not among the optimisers; trainable= chooses parameters by name",
    "debug": 'there are no debug modes: nan_policy="raise" finds the step, jax.debug_nans(True) finds the operation',
    "half_precision_backend": "bf16=True or fp16=True is all there is to say",
    "fp16_opt_level": "bf16=True or fp16=True is all there is to say",
}
# PyTorch's FSDP words, as presets of rules over a mesh.
SHARDING = {"full_shard": "FSDP", "shard_grad_op": "FSDP", "hybrid_shard": "FSDP", "no_shard": "DATA"}
# accelerate.ParallelismConfig's sizes and our axes.
PARALLELISM = {"dp_replicate_size": "data", "dp_shard_size": "fsdp", "tp_size": "tensor", "cp_size": "sequence"}


def translate(given: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """Arguments under our names. Raises ConfigError for names that are unknown or cannot be had."""
    out: dict[str, Any] = {}
    for name, value in given.items():
        if name in known:
            out.setdefault(name, value)
        elif name in RENAMED:
            if value is not None:  # an alias that says nothing leaves the default
                out[RENAMED[name]] = value
        elif name in MAPPED:
            out |= MAPPED[name](value)
        elif name in WITHOUT_EFFECT:
            if value not in (None, False):
                log.info("%s=%r has no effect: %s", name, value, WITHOUT_EFFECT[name])
        elif name in REFUSED:
            if value not in (None, False, "", [], {}):
                raise ConfigError(f"{name}={value!r} cannot be had: {REFUSED[name]}")
        else:
            raise ConfigError(unknown(name, known))
    return out


def unknown(name: str, known: set[str]) -> str:
    """What to say about a name that nobody knows."""
    names = sorted({*known, *RENAMED, *MAPPED})
    close = difflib.get_close_matches(name, names, 3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names)}"
    return f"TrainingArguments has no argument {name!r}: {hint}"


def from_fsdp(value: Any) -> dict[str, Any]:
    """PyTorch's `fsdp` as rules: True, "full_shard auto_wrap" or a list of such words."""
    if not value:
        return {}
    words = ["full_shard"] if value is True else value.split() if isinstance(value, str) else [str(v) for v in value]
    if "offload" in words:
        raise ConfigError(
            'fsdp="offload" cannot be had: parameters stay on the devices; use more of them, or gradient_checkpointing'
        )
    chosen = [word for word in words if word != "auto_wrap"]
    if len(chosen) != 1 or chosen[0] not in SHARDING:
        raise ConfigError(f"fsdp={value!r} is not understood; expected one of {', '.join(SHARDING)}")
    rules = SHARDING[chosen[0]]
    log.info("fsdp=%r is rules=%r over the mesh: XLA gathers and scatters layer by layer", value, rules)
    return {"rules": rules}


def from_fsdp_config(value: Any) -> dict[str, Any]:
    """PyTorch's tuning of FSDP, of which only activation checkpointing has a counterpart."""
    settings = read_settings(value)
    wanted = settings.get("activation_checkpointing")
    if others := sorted(settings.keys() - {"activation_checkpointing"}):
        log.info("fsdp_config's %s have no effect: %s", ", ".join(others), ONE_PROGRAM)
    return {"gradient_checkpointing": True} if wanted else {}


def from_deepspeed(value: Any) -> dict[str, Any]:
    """DeepSpeed's ZeRO stage as rules; its offloading cannot be had."""
    if not value:
        return {}
    zero = read_settings(value).get("zero_optimization", {})
    if offloaded := [key for key in zero if key.startswith("offload_") and zero[key].get("device") != "none"]:
        raise ConfigError(f"deepspeed's {', '.join(offloaded)} cannot be had: state stays on the devices; add devices")
    rules = "FSDP" if zero.get("stage", 0) else "DATA"
    log.info(
        "deepspeed's stage %s is rules=%r over the mesh; batch sizes, precision and the optimiser are read from the "
        "other arguments, not from its file",
        zero.get("stage", 0),
        rules,
    )
    return {"rules": rules}


def from_parallelism(value: Any) -> dict[str, Any]:
    """accelerate's ParallelismConfig, or a dict with its sizes, as a mesh."""
    if value is None:
        return {}
    read = value.get if isinstance(value, dict) else lambda name, default: getattr(value, name, default)
    mesh = {axis: size for name, axis in PARALLELISM.items() if (size := read(name, 1)) and size > 1}
    rules = "FSDP_TENSOR" if "tensor" in mesh else "SEQUENCE" if "sequence" in mesh else "FSDP"
    return {"mesh": mesh or "auto", "rules": rules}


def from_cpu(value: Any) -> dict[str, Any]:
    """`use_cpu` can be checked, not obeyed: jax chose its platform when it started."""
    import jax

    if value and jax.default_backend() != "cpu":
        raise ConfigError(
            f"use_cpu=True, and jax runs on {jax.default_backend()}: set JAX_PLATFORMS=cpu before the program starts"
        )
    return {}


def from_grouping(value: Any) -> dict[str, Any]:
    """`group_by_length` of transformers 4."""
    return {"train_sampling_strategy": "group_by_length"} if value else {}


def read_settings(value: Any) -> dict[str, Any]:
    """A dict, JSON text, or the path of a JSON file."""
    if isinstance(value, str):
        return json.loads(value if value.lstrip().startswith("{") else Path(value).read_text(encoding="utf-8"))
    return dict(value or {})


MAPPED = {
    "fsdp": from_fsdp,
    "fsdp_config": from_fsdp_config,
    "deepspeed": from_deepspeed,
    "parallelism_config": from_parallelism,
    "use_cpu": from_cpu,
    "no_cuda": from_cpu,
    "group_by_length": from_grouping,
}
