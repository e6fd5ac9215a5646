"""GenerationConfig: how to write, as generation_config.json says it; a value, so that it can be a part of a model."""

import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from jaxformers.core.config import Config, decode_floats, encode_floats, read_json
from jaxformers.core.errors import ConfigError
from jaxformers.core.frozen import FrozenDict, freeze, thaw
from jaxformers.generation.config_rules import check

FILE = "generation_config.json"

# What holds where neither the model's file nor the caller says anything; transformers 5.23.
DEFAULTS: Mapping[str, Any] = FrozenDict(
    {
        "max_length": 20,
        "min_length": 0,
        "do_sample": False,
        "use_cache": True,
        "early_stopping": False,
        "num_beams": 1,
        "temperature": 1.0,
        "top_k": 50,
        "top_p": 1.0,
        "typical_p": 1.0,
        "repetition_penalty": 1.0,
        "length_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "encoder_no_repeat_ngram_size": 0,
        "num_return_sequences": 1,
        "output_scores": False,
        "return_dict_in_generate": False,
        "remove_invalid_values": False,
        "epsilon_cutoff": 0.0,
        "eta_cutoff": 0.0,
        "encoder_repetition_penalty": 1.0,
        "num_assistant_tokens": 20,
        "num_assistant_tokens_schedule": "constant",
        "assistant_confidence_threshold": 0.4,
        "assistant_lookbehind": 10,
        "target_lookbehind": 10,
        "num_beam_groups": 1,
        "diversity_penalty": 0.0,
    }
)


@dataclass(frozen=True, kw_only=True, repr=False)
class GenerationConfig:
    """transformers' fields with transformers' names; None means "not said". Keys without a field are in `extra`."""

    # How long.
    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    early_stopping: bool | str | None = None
    max_time: float | None = None  # seconds
    stop_strings: str | tuple[str, ...] | None = None
    # Which strategy.
    do_sample: bool | None = None
    num_beams: int | None = None
    num_beam_groups: int | None = None
    diversity_penalty: float | None = None
    penalty_alpha: float | None = None
    constraints: tuple | None = None
    force_words_ids: tuple | None = None
    # The cache.
    use_cache: bool | None = None
    cache_implementation: str | None = None
    cache_config: FrozenDict | None = None
    max_cache_len: int | None = None
    # Scores.
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    top_h: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    repetition_penalty: float | None = None
    encoder_repetition_penalty: float | None = None
    length_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    encoder_no_repeat_ngram_size: int | None = None
    bad_words_ids: tuple | None = None
    renormalize_logits: bool | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | tuple[int, ...] | None = None
    remove_invalid_values: bool | None = None
    exponential_decay_length_penalty: tuple | None = None
    suppress_tokens: tuple[int, ...] | None = None
    begin_suppress_tokens: tuple[int, ...] | None = None
    sequence_bias: Any = None
    guidance_scale: float | None = None
    watermarking_config: Any = None
    token_healing: bool | None = None
    # What to return.
    num_return_sequences: int | None = None
    output_scores: bool | None = None
    output_logits: bool | None = None
    output_hidden_states: bool | None = None
    output_attentions: bool | None = None
    return_dict_in_generate: bool | None = None
    # Special tokens.
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    decoder_start_token_id: int | tuple[int, ...] | None = None
    # Drafts that a larger model checks.
    is_assistant: bool | None = None
    num_assistant_tokens: int | None = None
    num_assistant_tokens_schedule: str | None = None
    assistant_confidence_threshold: float | None = None
    assistant_early_exit: int | None = None
    assistant_lookbehind: int | None = None
    target_lookbehind: int | None = None
    assistant_ensemble_weight: float | None = None
    prompt_lookup_num_tokens: int | None = None
    max_matching_ngram_size: int | None = None
    # Read and written, never used: they speak of PyTorch.
    compile_config: Any = None
    disable_compile: bool | None = None
    prefill_chunk_size: int | None = None
    low_memory: bool | None = None
    dola_layers: Any = None
    transformers_version: str | None = None
    extra: FrozenDict = FrozenDict()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, freeze(plain(getattr(self, field.name))))
        check(self)

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={getattr(self, name)!r}" for name in FIELDS if getattr(self, name) is not None)
        return f"GenerationConfig({said})"

    def __getattr__(self, name: str) -> Any:
        extra = object.__getattribute__(self, "__dict__").get("extra") or {}
        if name in extra:
            return extra[name]
        raise AttributeError(f"GenerationConfig has no field {name!r}{nearest(name)}")

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], **overrides: Any) -> Self:
        """Read the content of a generation_config.json; keys without a field go to `extra`."""
        raw = {k: v for k, v in decode_floats({**raw, **overrides}).items() if k not in ("_from_model_config", "extra")}
        raw.pop("_commit_hash", None)
        extra = {k: v for k, v in raw.items() if k not in FIELDS}
        return cls(**{k: v for k, v in raw.items() if k in FIELDS}, extra=FrozenDict(extra))

    @classmethod
    def from_pretrained(cls, source: str | Path, **kwargs: Any) -> Self:
        """Read a folder, a file or a Hub id. Keywords are the Hub's (revision, token, ...) or override fields."""
        from jaxformers.hub.download import resolve
        from jaxformers.hub.pretrained import HUB_ARGUMENTS

        hub = {k: kwargs.pop(k) for k in HUB_ARGUMENTS if k in kwargs}
        path = Path(resolve(source, patterns=(FILE,), weights=False, **hub))
        return cls.from_dict(read_json(path / FILE if path.is_dir() else path), **kwargs)

    @classmethod
    def from_model_config(cls, config: Config) -> Self:
        """What older files say of generation in config.json, in the decoder's part too."""
        own = told(config)
        text = getattr(config, "text_config", None)
        inner = told(text) if isinstance(text, Config) else {}
        found = {**inner, **own}
        if found.get("force_bos_token_to_be_generated"):
            found["forced_bos_token_id"] = found.get("bos_token_id")
        found = {k: v for k, v in found.items() if k in FIELDS and k not in ("extra", "transformers_version")}
        if any(found.get(f"output_{k}") for k in ("scores", "logits", "attentions", "hidden_states")):
            found["return_dict_in_generate"] = True
        return cls(**found)

    def to_dict(self) -> dict[str, Any]:
        """What generation_config.json holds: what was said, and keys that have no field here."""
        said = {name: getattr(self, name) for name in FIELDS if name != "extra" and getattr(self, name) is not None}
        return encode_floats(thaw({**self.extra, **said}))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write generation_config.json. Raises TypeError for values that JSON has no form for."""
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / FILE).write_text(text, encoding="utf-8")

    def update(self, **changes: Any) -> Self:
        """A copy with some fields changed. Raises ConfigError for a name that is no field, with the nearest one."""
        if unknown := [name for name in changes if name not in FIELDS and name not in self.extra]:
            raise ConfigError(f"GenerationConfig has no field {unknown[0]!r}{nearest(unknown[0])}")
        known = {k: v for k, v in changes.items() if k in FIELDS}
        extra = {**self.extra, **{k: v for k, v in changes.items() if k not in FIELDS}, **dict(known.pop("extra", {}))}
        return dataclasses.replace(self, **known, extra=FrozenDict(extra))

    def over(self, lower: "GenerationConfig") -> Self:
        """Fields that are None here are taken from `lower`."""
        said = {name: getattr(lower, name) for name in FIELDS if getattr(self, name) is None}
        return dataclasses.replace(self, **said, extra=FrozenDict({**lower.extra, **self.extra}))

    def filled(self) -> Self:
        """With transformers' defaults where nothing was said."""
        return dataclasses.replace(self, **{k: v for k, v in DEFAULTS.items() if getattr(self, k) is None})

    @property
    def eos(self) -> tuple[int, ...]:
        """The tokens that end a text; none when it is not said."""
        found = self.eos_token_id
        return () if found is None else (found,) if isinstance(found, int) else tuple(found)

    @property
    def pad(self) -> int | None:
        """What fills finished rows: pad_token_id, or the first end token."""
        if self.pad_token_id is not None:
            return self.pad_token_id
        return self.eos[0] if self.eos else None


def refuse_change(config: GenerationConfig, name: str, value: Any) -> None:
    """Say how to change a config, which is a value."""
    raise AttributeError(
        "a GenerationConfig does not change; write "
        f"model.generation_config = model.generation_config.update({name}={value!r})"
    )


# A frozen dataclass may not define it in its body.
GenerationConfig.__setattr__ = refuse_change  # type: ignore[method-assign, assignment]

FIELDS = tuple(field.name for field in dataclasses.fields(GenerationConfig))


def told(config: Config) -> dict[str, Any]:
    """Everything that an architecture's config says, keys that no field reads too."""
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name != "extra"}
    return {k: v for k, v in {**config.extra, **fields}.items() if v is not None}


def plain(value: Any) -> Any:
    """Arrays as Python's numbers and lists, sets as sorted lists; other values as they are."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return value.tolist() if hasattr(value, "tolist") and hasattr(value, "dtype") else value


def nearest(name: str, names: tuple[str, ...] | None = None) -> str:
    """A hint at what was meant: "; did you mean ...?", or nothing."""
    close = difflib.get_close_matches(name, FIELDS if names is None else names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
