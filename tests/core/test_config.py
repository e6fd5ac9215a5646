"""Configs: golden files of transformers 4 and 5 read alike, both spellings written, and bad values named."""

import json
import math
from typing import Any

import jax
import pytest
import transformers

from jaxformers.core.config import Config, decode_floats, encode_floats
from jaxformers.core.errors import ConfigError, UnknownOption
from jaxformers.core.frozen import thaw
from jaxformers.models import blueprint, family_of, read_config

TYPES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2", "granite", "smollm3")
BASE = dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=4, intermediate_size=96)
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
SHORT, LONG = [1.0 + i for i in range(8)], [2.0 + i for i in range(8)]

# name: (as transformers 4 wrote it, as transformers 5 writes it)
GOLDEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama": (
        {"model_type": "llama", "torch_dtype": "bfloat16", "rope_theta": 500000.0, "rope_scaling": LLAMA3},
        {"model_type": "llama", "dtype": "bfloat16", "rope_parameters": {**LLAMA3, "rope_theta": 500000.0}},
    ),
    "llama with the word type": (
        {"model_type": "llama", "torch_dtype": "float16", "rope_scaling": {"type": "linear", "factor": 2.0}},
        {
            "model_type": "llama", "dtype": "float16",
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        },
    ),
    "llama in part": (
        {"model_type": "llama", "partial_rotary_factor": 0.5, "rope_theta": 9.0, "rope_scaling": None},
        {
            "model_type": "llama",
            "rope_parameters": {"rope_type": "default", "rope_theta": 9.0, "partial_rotary_factor": 0.5},
        },
    ),
    "gemma3": (
        {
            "model_type": "gemma3_text", "torch_dtype": "bfloat16", "sliding_window_pattern": 2, "rope_theta": 1e6,
            "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        {
            "model_type": "gemma3_text", "dtype": "bfloat16", "_sliding_window_pattern": 2,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "phi3 longrope": (
        {
            "model_type": "phi3", "rope_theta": 1e4, "original_max_position_embeddings": 16, "pad_token_id": 0,
            "rope_scaling": {"type": "longrope", "short_factor": SHORT, "long_factor": LONG},
        },
        {
            "model_type": "phi3", "original_max_position_embeddings": 16, "pad_token_id": 0,
            "rope_parameters": {
                "rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "rope_theta": 1e4,
                "partial_rotary_factor": 1.0, "original_max_position_embeddings": 16,
            },
        },
    ),
    "qwen2 with windows": (
        {
            "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 128, "max_window_layers": 3,
            "rope_theta": 1e6,
        },
        {
            "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 128, "max_window_layers": 3,
            "layer_types": ["full_attention"] * 3 + ["sliding_attention"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    ),
    "qwen2 without": (
        {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 128, "max_window_layers": 3},
        {
            "model_type": "qwen2", "use_sliding_window": False, "sliding_window": None, "max_window_layers": 3,
            "layer_types": ["full_attention"] * 4, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
}  # fmt: skip


def through_json(raw: dict[str, Any]) -> dict[str, Any]:
    """What a reader of the file sees."""
    return json.loads(json.dumps(raw))


@pytest.mark.parametrize("name", GOLDEN)
def test_old_reads_as_new(name: str) -> None:
    """Both spellings make one config, with one module, and one compilation."""
    old, new = (read_config(through_json({**BASE, **raw})) for raw in GOLDEN[name])
    assert old == new and hash(old) == hash(new)
    assert blueprint(old, "CausalLM").module == blueprint(new, "CausalLM").module


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("age", [0, 1], ids=["v4", "v5"])
def test_reads_as_transformers_does(name: str, age: int) -> None:
    """Every field that transformers makes of a golden file, we make too; and it reads the same from what we write."""
    raw = {**BASE, **GOLDEN[name][age]}
    ours = read_config(through_json(raw))
    cls = transformers.CONFIG_MAPPING[raw["model_type"]]
    theirs = cls.from_dict(through_json(raw)).to_dict()
    back = cls.from_dict(through_json(ours.to_json())).to_dict()
    for key in {f for f in theirs if hasattr(ours, f)} - {"id2label", "label2id", "output_attentions", "model_type"}:
        expected = theirs[key]
        if key == "rope_parameters":
            expected.pop("type", None)  # transformers keeps the old word beside the new
            back[key].pop("type", None)
        assert thaw(getattr(ours, key)) == expected, key
        assert back[key] == expected, f"{key} after a round trip"


@pytest.mark.parametrize("name", GOLDEN)
def test_both_spellings_are_written(name: str) -> None:
    """What we write has every key of either golden file, and reads back equal without the keys of either version."""
    for raw in GOLDEN[name]:
        config = read_config({**BASE, **raw})
        written = config.to_json()
        assert read_config(through_json(written)).replace(extra={}) == config.replace(extra={})
        assert ("dtype" in written) == ("torch_dtype" in written) == ("dtype" in GOLDEN[name][1])
        v4_only, v5_only = (
            {"rope_theta", "rope_scaling", "torch_dtype", "rope_local_base_freq"},
            {"rope_parameters", "dtype"},
        )
        assert v4_only - {"torch_dtype", "rope_local_base_freq"} <= set(written) and "rope_parameters" in written
        as_v4 = {k: v for k, v in written.items() if k not in v5_only}
        as_v5 = {k: v for k, v in written.items() if k not in v4_only}
        assert read_config(as_v5).replace(extra={}) == config.replace(extra={})
        assert read_config(as_v4).replace(extra={}) == config.replace(extra={})


def test_phi3_scaling_is_what_transformers_4_accepts() -> None:
    """It insisted on these three keys and the old word."""
    written = read_config({**BASE, **GOLDEN["phi3 longrope"][1]}).to_json()
    assert written["rope_scaling"] == {"type": "longrope", "short_factor": SHORT, "long_factor": LONG}
    assert written["original_max_position_embeddings"] == 16 and written["rope_theta"] == 1e4


@pytest.mark.parametrize("old", ["su", "yarn"])
def test_phi3_early_names(old: str) -> None:
    """The first releases called LongRoPE otherwise."""
    new, _ = GOLDEN["phi3 longrope"]
    early = {**new, "rope_scaling": {**new["rope_scaling"], "type": old}}
    assert read_config({**BASE, **early}) == read_config({**BASE, **new})


def test_rope_scaling_replaces_rope_parameters() -> None:
    """A file with both is read by the old key, as transformers reads it."""
    both = {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}, "rope_scaling": {"type": "linear", "factor": 2.0}}
    rope = read_config({**BASE, "model_type": "llama", **both}).rope_parameters
    assert rope == {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attn_logit_softcapping", 50.0),
        ("clip_qkv", 8.0),
        ("is_causal", False),
        ("layer_types", ["full_attention", "sliding_attention"] * 2),
        ("per_layer_config", {"0": {"hidden_size": 32}}),
        ("qk_norm", True),
        ("residual_multiplier", 0.5),
        ("sliding_window", 128),
    ],
)
def test_unread_behaviour_is_refused(key: str, value: Any) -> None:
    """A key that no field of llama reads may stand at its neutral value only; the message names it."""
    with pytest.raises(UnknownOption, match=key):
        read_config({**BASE, "model_type": "llama", key: value})
    neutral = {"is_causal": True, "layer_types": ["full_attention"] * 4, "qk_norm": False, "residual_multiplier": 1.0}
    kept = read_config({**BASE, "model_type": "llama", key: neutral.get(key)})
    assert kept.to_json()[key] == neutral.get(key)


def test_other_keys_are_carried() -> None:
    """What means nothing to a model is kept for saving."""
    config = read_config({**BASE, "model_type": "llama", "my_note": {"a": [1, 2]}, "transformers_version": "4.1"})
    assert config.to_json()["my_note"] == {"a": [1, 2]} and config.to_json()["transformers_version"] == "4.1"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", "64"),
        ("hidden_size", 64.5),
        ("hidden_size", True),
        ("hidden_size", None),
        ("rms_norm_eps", "small"),
        ("tie_word_embeddings", 1),
        ("tie_word_embeddings", "yes"),
        ("hidden_act", None),
        ("hidden_act", 3),
        ("num_key_value_heads", [2]),
        ("rope_parameters", "linear"),
        ("rope_scaling", 4.0),
        ("rope_theta", "large"),
        ("rope_theta", -1.0),
        ("rope_parameters", {"rope_type": "linear", "factor": "2"}),
        ("rope_parameters", {"rope_type": "linear", "factor": True}),
        ("rope_parameters", {"rope_type": "longrope", "short_factor": 1.0, "long_factor": [1.0] * 8}),
    ],
)
def test_wrong_types_are_named(key: str, value: Any) -> None:
    """A value of the wrong type is a ConfigError that shows it."""
    with pytest.raises(ConfigError) as caught:
        read_config({**BASE, "model_type": "llama", key: value})
    wrong = value if not isinstance(value, dict) else next(v for k, v in value.items() if k not in ("rope_type",))
    assert repr(wrong) in str(caught.value)


@pytest.mark.parametrize("name", TYPES)
def test_no_value_breaks_reading(name: str) -> None:
    """Whatever a field holds, the config is read and written, or refused by a ConfigError."""
    values = ["x", 1.5, -1, 0, True, None, [], ["a", 1], {}, {"a": {}}]
    read = 0
    for key in (*family_of(name).config.__dataclass_fields__, "num_labels", "rope_scaling", "rope_theta"):
        for value in values:
            try:
                config = read_config({**BASE, "model_type": name, "pad_token_id": 0, key: value})
            except ConfigError:
                continue
            read += 1
            assert json.dumps(config.to_json(), allow_nan=False), f"{key} {value!r}"
    assert 50 < read < 250  # most values are wrong for most fields


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("llama", {"hidden_size": 66}, "multiple"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma2", {"sliding_window": None}, "sliding_window"),
        ("gemma3_text", {"layer_types": ["full_attention"]}, "1 entries"),
        ("qwen3", {"layer_types": ["linear_attention"] * 4}, "linear_attention"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 4}, "sliding_window"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers"),
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
    ],
)
def test_contradictions_are_refused(name: str, changes: dict[str, Any], expected: str) -> None:
    """Values that fit no model are refused when the config is read."""
    with pytest.raises(ConfigError, match=expected):
        read_config({**BASE, "model_type": name, **changes})


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "spiral"}, "spiral"),
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0] * 3, "long_factor": [1.0] * 8}, "3 factors"),
    ],
)
def test_rotary_settings_that_fit_no_model(rope: dict[str, Any], expected: str) -> None:
    """Unknown kinds, missing settings and wrong lengths are refused when the model is planned."""
    config = read_config({**BASE, "model_type": "llama", "rope_parameters": rope})
    with pytest.raises(ConfigError, match=expected):
        blueprint(config, None)


def test_infinities() -> None:
    """JSON has none; transformers 5 spells them, and Python's own literals are read as well."""
    numbers = {"a": math.inf, "b": [-math.inf, {"c": 1.0}]}
    spelled = encode_floats(numbers)
    assert spelled == {"a": {"__float__": "Infinity"}, "b": [{"__float__": "-Infinity"}, {"c": 1.0}]}
    assert decode_floats(through_json(spelled)) == numbers
    assert math.isnan(decode_floats(through_json(encode_floats({"n": math.nan})))["n"])
    config = read_config({**BASE, "model_type": "llama", "limit": {"__float__": "-Infinity"}, "other": math.inf})
    assert config.extra["limit"] == -math.inf
    written = config.to_json()
    assert json.dumps(written, allow_nan=False) and written["other"] == {"__float__": "Infinity"}
    assert read_config(through_json(written)).extra["other"] == math.inf


def test_config_is_static() -> None:
    """Configs hash by value, so that equal ones share a compilation."""
    count = 0

    def area(config: Config) -> int:
        nonlocal count
        count += 1
        return config.hidden_size * config.num_hidden_layers  # type: ignore[attr-defined]

    traced = jax.jit(area, static_argnums=0)
    for raw in GOLDEN["gemma3"]:
        assert int(traced(read_config({**BASE, **raw}))) == 256
    assert count == 1
