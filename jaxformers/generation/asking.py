"""From the arguments of `generate` to a Request: what is config, what is input, what is neither, and what follows."""

import inspect
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxformers.core.config import vocabulary
from jaxformers.core.errors import ConfigError
from jaxformers.generation.buckets import row_bucket
from jaxformers.generation.config import DEFAULTS, FIELDS, GenerationConfig, nearest
from jaxformers.generation.config_rules import CACHE_NAMES, check_complete
from jaxformers.generation.lengths import with_lengths
from jaxformers.generation.negative import guides, with_negative
from jaxformers.generation.prompts import more_rows
from jaxformers.generation.request import Request
from jaxformers.generation.transform import Chain, chain
from jaxformers.generation.transforms.from_config import transforms_of
from jaxformers.generation.transforms.guidance import text_guidance
from jaxformers.generation.writer import KINDS, EncoderDecoderWriter, Writer, backbone, writer_of
from jaxformers.hub.layout import relayout, restack
from jaxformers.hub.model import Model
from jaxformers.nn.vision_language import VisionLanguage

# Arguments of one mode, which it finds in `request.options`.
OPTIONS = ("assistant_model", "assistant_tokenizer", "prefix_allowed_tokens_fn")
# Arguments of transformers that mean nothing here.
IGNORED = ("synced_gpus", "use_model_defaults", "custom_generate", "trust_remote_code", "return_dict")
SPECIAL = ("key", "logits_processor", "stopping_criteria", "tokenizer", "streamer", "negative")


def read_request(
    model: Model, inputs: Any = None, *, generation_config: GenerationConfig | None = None, **given: Any
) -> Request:
    """Everything that `generate` was given as a Request. Raises ConfigError and ValueError for what cannot be."""
    special = {name: given.pop(name, None) for name in SPECIAL}
    options = {name: given.pop(name) for name in OPTIONS if given.get(name) is not None}
    given = {k: v for k, v in given.items() if k not in (*IGNORED, *OPTIONS)}
    told, config = complete(model, generation_config, {k: v for k, v in given.items() if k in FIELDS})
    if config.do_sample and special["key"] is None:
        raise ConfigError("do_sample=True draws at random: pass key=jax.random.key(seed) to generate")
    writer, ready = writer_for(model, config), unstacked(model)
    named = named_inputs(model, inputs, {k: v for k, v in given.items() if k not in FIELDS})
    prompt = writer.prompt(ready, named, config)
    length = prompt.width - int(prompt.start)
    config, new = with_lengths(config, told, model.config, length, unseen(writer, named, length))
    request = Request(
        model=ready,
        writer=writer,
        prompt=prompt,
        config=config,
        key=special["key"] if config.do_sample else None,
        new_tokens=new,
        tokenizer=special["tokenizer"],
        streamer=special["streamer"],
        criteria=listed(special["stopping_criteria"]),
        options=options,
    )
    if guides(config):
        request = with_negative(request, *(special["negative"] or (None, None)))
    return request.replace(transforms=transforms_for(request, listed(special["logits_processor"])))


def complete(
    model: Model, given: GenerationConfig | None, changes: dict[str, Any]
) -> tuple[GenerationConfig, GenerationConfig]:
    """What was asked for, without and with defaults: keywords, then the caller's config, then the model's.

    A keyword of None takes back what a config says. Raises ConfigError for contradictions.
    """
    lower = (given or GenerationConfig()).over(model.generation_config or GenerationConfig())
    config = lower.filled().update(**changes)
    counts = ("max_length", "num_beams", "num_beam_groups", "num_return_sequences")
    config = config.update(**{name: DEFAULTS[name] for name in counts if getattr(config, name) is None})
    check_complete(config)
    return lower.update(**changes), config


def writer_for(model: Model, config: GenerationConfig) -> Writer:
    """How the model writes, with the cache that the config names and what it wants recorded."""
    kind = CACHE_NAMES.get(config.cache_implementation or "dynamic", config.cache_implementation)
    wanted = [n for n in ("hidden_states", "attentions") if getattr(config, f"output_{n}")]
    record = tuple(wanted) if config.return_dict_in_generate else ()
    return writer_of(model, cache=kind if kind in KINDS else "dynamic", record=record)


def unstacked(model: Model) -> Model:
    """The model with its layers one by one, which decodes faster; made once and kept beside the model.

    How it generates is taken off, so that no program depends on it.
    """
    kept = model.__dict__.get("_unstacked")
    now = (model.params, model.adapters, model._static)
    if kept is None or any(a is not b for a, b in zip(kept[0], now, strict=True)):
        apart = model if relayout(model.module, scan=False) is model.module else restack(model, scan=False)
        kept = (now, apart.replace(generation_config=None))
        model.__dict__["_unstacked"] = kept
    return kept[1]


def named_inputs(model: Model, inputs: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The model's inputs by name. Raises ConfigError for a keyword that is neither input nor field of the config."""
    known = input_names(model)
    for name in given:
        if name not in known:
            raise ConfigError(f"generate has no argument {name!r}{nearest(name, (*FIELDS, *known))}")
    if inputs is None:
        return given
    if isinstance(inputs, dict):
        raise TypeError("generate takes a batch of inputs as keywords: model.generate(**inputs)")
    main = "input_features" if "input_features" in known else "input_ids"
    if given.get(main) is not None:
        raise ValueError(f"inputs and {main} were both given; pass one of them")
    return {**given, main: inputs}


def input_names(model: Model) -> tuple[str, ...]:
    """Names of the arrays that the model takes."""
    core = backbone(model.module)
    parts = [core, *((core.language, core.vision) if isinstance(core, VisionLanguage) else ())]
    names = {name for part in parts for name in inspect.signature(type(part).__call__).parameters}
    return tuple(sorted(names - {"self", "train", "kwargs", "options", "logits_to_keep"} | {"input_ids"}))


def unseen(writer: Writer, named: dict[str, Any], length: int) -> int:
    """How many more columns a decoder's prompt of embeddings has than ids."""
    embeds = named.get("inputs_embeds")
    if embeds is None or isinstance(writer, EncoderDecoderWriter):
        return 0
    return max(np.shape(embeds)[1] - length, 0)


def listed(given: Any) -> tuple:
    """One thing or several as a tuple; a chain stays whole."""
    if given is None:
        return ()
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, Chain) else (given,)


def transforms_for(request: Request, own: tuple) -> Chain:
    """The transforms of the config with the caller's own where transformers puts them, and guidance ahead of all."""
    c = request.config
    beams = max(c.num_beams // (c.num_beam_groups or 1), 1)  # those of one group see their own rows alone
    texts = beams if c.num_beams > 1 else c.num_return_sequences
    made = transforms_of(
        c,
        own=own,
        beams=beams,
        eos=c.eos or None,
        padding=padding_of(request) if c.repetition_penalty != 1.0 else None,
        encoder_real=request.prompt.encoder_real,
        vocab_size=vocabulary(request.model.config),
        prefix_allowed_tokens_fn=request.options.get("prefix_allowed_tokens_fn"),
        rows=request.rows * texts,
    )
    return chain(text_guidance(c.guidance_scale), made) if guides(c) else made


def padding_of(request: Request) -> np.ndarray:
    """Columns of the prompt that the caller padded on the left, Int [R], which a repetition penalty passes over."""
    real = np.asarray(request.prompt.real)[: request.rows, int(request.prompt.start) :]
    ahead = np.argmax(real, axis=1) if real.shape[1] else np.zeros(len(real), int)
    copies = request.config.num_return_sequences if request.config.num_beams == 1 else 1
    return more_rows(np.repeat(ahead.astype(np.int32), copies), row_bucket(request.rows * copies))
