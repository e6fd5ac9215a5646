"""`generate`: from the caller's arguments to a request, and to the mode that answers it, as transformers chooses it."""

import importlib
from collections.abc import Callable
from typing import Any

import jax

from jaxformers.core.errors import ConfigError
from jaxformers.generation.asking import read_request
from jaxformers.generation.config import GenerationConfig
from jaxformers.generation.outputs import GenerateOutput
from jaxformers.generation.request import Request
from jaxformers.hub.model import Model

# Each mode is a function of a Request, in a module that is imported when it is wanted.
MODES = {
    "greedy_search": "sample:sample",
    "sample": "sample:sample",
    "beam_search": "beam:beam_search",
    "beam_sample": "beam:beam_search",
    "group_beam_search": "group_beam:group_beam_search",
    "constrained_beam_search": "constrained:constrained_beam_search",
    "contrastive_search": "contrastive:contrastive_search",
    "assisted_generation": "assisted:assisted_generation",
    "prompt_lookup": "lookup:prompt_lookup",
}

# Models with a `generate` of their own, which calls the modes above for each window of its input.
OWN = {("whisper", "SpeechSeq2Seq"): "whisper_generate:whisper_generate"}


def generate(
    model: Model,
    inputs: Any = None,
    *,
    generation_config: GenerationConfig | None = None,
    key: jax.Array | None = None,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    tokenizer: Any = None,
    streamer: Any = None,
    negative_prompt_ids: Any = None,
    negative_prompt_attention_mask: Any = None,
    **kwargs: Any,
) -> GenerateOutput | jax.Array:
    """Write on from a prompt. Arguments, defaults and results are those of transformers' `generate`.

    inputs: the model's main input, as input_ids [B,P]. key: a random key, needed by do_sample=True. Further keywords
    are inputs of the model (attention_mask, pixel_values, ...) or override fields of the config (max_new_tokens=50).
    Returns Int [B,P+N], new tokens only for encoder-decoders and prompts of embeddings; an output with
    return_dict_in_generate=True. Raises ConfigError and ValueError.
    """
    if (model.config.model_type, model.task) in OWN:
        module, function = OWN[model.config.model_type, model.task].split(":")
        own = getattr(importlib.import_module(f"jaxformers.generation.{module}"), function)
        given = dict(logits_processor=logits_processor, stopping_criteria=stopping_criteria, tokenizer=tokenizer)
        given |= dict(generation_config=generation_config, key=key, streamer=streamer)
        return own(model, inputs, negative_prompt_ids=negative_prompt_ids, **given, **kwargs)
    request = read_request(
        model,
        inputs,
        generation_config=generation_config,
        key=key,
        logits_processor=logits_processor,
        stopping_criteria=stopping_criteria,
        tokenizer=tokenizer,
        streamer=streamer,
        negative=(negative_prompt_ids, negative_prompt_attention_mask),
        **kwargs,
    )
    return mode_of(request)(request)


def mode_name(config: GenerationConfig, options: dict[str, Any]) -> str:
    """The strategy that a complete config asks for, by transformers' rules."""
    one = config.num_beams == 1
    if config.constraints is not None or config.force_words_ids is not None or "constraints" in options:
        mode = "constrained_beam_search"
    elif not one:
        groups = (config.num_beam_groups or 1) > 1
        mode = "group_beam_search" if groups else "beam_sample" if config.do_sample else "beam_search"
    elif config.do_sample:
        mode = "sample"
    else:
        mode = "contrastive_search" if (config.penalty_alpha or 0) > 0 and (config.top_k or 0) > 1 else "greedy_search"
    drafts = {
        "assisted_generation": "assistant_model" in options,
        "prompt_lookup": config.prompt_lookup_num_tokens is not None,
    }
    for name, wanted in drafts.items():
        if wanted and mode not in ("greedy_search", "sample"):
            raise ConfigError(f"{name} goes with greedy search and sampling only; the config asks for {mode}")
        if wanted:
            return name
    return mode


def mode_of(request: Request) -> Callable[[Request], GenerateOutput | jax.Array]:
    """The function that answers a request. Raises ConfigError for a combination that no mode knows."""
    name = mode_name(request.config, request.options)
    if "search" in name and request.streamer is not None and name != "greedy_search":
        raise ConfigError(f"a streamer needs tokens in order, which {name} does not write; set num_beams=1")
    module, function = MODES[name].split(":")
    return getattr(importlib.import_module(f"jaxformers.generation.{module}"), function)
