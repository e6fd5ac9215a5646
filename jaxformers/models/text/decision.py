"""Decision heads that lie in files of their own beside a language model's weights, as their makers publish them."""

import logging
from collections.abc import Mapping
from typing import Any

from jaxformers.core.config import Config
from jaxformers.core.errors import CheckpointError, ConfigError
from jaxformers.models import Beside, Task, read_config

log = logging.getLogger("jaxformers")
KINDS = ("noul", "choice", "score")  # kinds of question, in the order of question_type_ids


def decision_config(config: Config, files: Mapping[str, Mapping[str, Any]]) -> Config:
    """The jev config of a language model with a head beside it. Raises CheckpointError where no head is."""
    if config.model_type == "jev":
        return config
    vllm, judge = files.get("decision_config") or {}, files.get("judge_config") or {}
    if not (vllm.get("codes") or judge):
        raise CheckpointError(
            f"this {config.model_type} checkpoint has no decision head: expected {' or '.join(FILES.weights)} beside "
            "its weights, and decision_config.json (with codes) or judge_config.json. Name another task"
        )
    text = config.to_json()
    try:
        fields = by_codes(vllm) if vllm.get("codes") else by_slots(judge)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"the decision head's JSON does not describe one ({error!r}); download it again") from error
    if vllm.get("codes"):
        text["is_causal"] = vllm.get("attention_mode") != "noncausal_full_attention"
    return read_config({"model_type": "jev", "text_config": text, "hidden_size": text["hidden_size"], **fields})


def by_codes(vllm: Mapping[str, Any]) -> dict[str, Any]:
    """A head with one label for each option, whatever the kind of question."""
    return {"num_verbalizers": len(vllm["codes"]), "offsets": dict.fromkeys(KINDS, 0)}


def by_slots(judge: Mapping[str, Any]) -> dict[str, Any]:
    """A head with labels of their own for each kind of question."""
    slots = judge["slots"]
    offsets = {kind: start for kind, (start, _) in slots["ranges"].items()}
    # transformers, too, leaves it to the caller.
    log.warning("the LoRA in %r is not merged into the weights", judge.get("adapter_subfolder", "adapter"))
    return {"num_verbalizers": slots["num_slots"], "offsets": offsets, "softcap": judge.get("softcap")}


FILES = Beside(
    ("head.safetensors", "readout.safetensors"),
    ("decision_config.json", "judge_config.json"),
    decision_config,
)


def no_head(c: Config, _: Any) -> Any:
    """Refuse to build a decision head from a language model's config alone."""
    raise ConfigError(
        f"a {c.model_type} config does not describe a decision head; expected one of type 'jev': "
        "AutoConfig.for_model('jev', text_config=..., hidden_size=...)"
    )


# For types whose checkpoints may have such files.
BORROWED = {"Decision": Task("JevForDecision", no_head, beside=FILES)}
