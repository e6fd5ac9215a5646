"""The key map: templates, nesting, and random trees under random rules that come back as they went."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxformers.core.errors import CheckpointError
from jaxformers.core.keymap import KeyMap, Part, logical_path, to_ours, to_theirs
from jaxformers.hub.abstract import flatten, unflatten
from jaxformers.hub.load import load_params
from jaxformers.hub.save import to_hf

MAP = KeyMap(
    {
        "embed": "wte",
        "layers.{i}.attn.{*}": "h.{i}.attn.{*}",
        "layers.{i}.attn.q_proj": Part("h.{i}.attn.c_attn", (3, 4), 0, in_out=True),
        "layers.{i}.mlp.experts.up": "h.{i}.moe.{e}.w1",
        "cls": "cls_token",
    },
    ignore=(r"\.masked_bias$", r"^rotary"),
)


class TestFind:
    @pytest.mark.parametrize(
        ("path", "keys"),
        [
            ("embed.embedding", ("wte.weight",)),
            ("layers.3.attn.o_proj.kernel", ("h.3.attn.o_proj.weight",)),
            ("layers.3.attn.norm.scale", ("h.3.attn.norm.weight", "h.3.attn.norm.gamma")),
            ("layers.3.attn.norm.bias", ("h.3.attn.norm.bias", "h.3.attn.norm.beta")),
            ("layers.12.mlp.experts.up.kernel", ("h.12.moe.{e}.w1.weight",)),
            ("cls", ("cls_token",)),
        ],
    )
    def test_paths(self, path: str, keys: tuple[str, ...]) -> None:
        assert MAP.find(path)[1] == keys

    def test_no_rule(self) -> None:
        with pytest.raises(KeyError, match="no rule in the key map for parameter layers.0.mlp.fc1.kernel"):
            MAP.find("layers.0.mlp.fc1.kernel")

    def test_later_maps_win(self) -> None:
        assert (MAP | KeyMap({"embed": "tok"})).find("embed.embedding")[1] == ("tok.weight",)

    def test_under(self) -> None:
        nested = MAP.under("text", "model.text")
        assert nested.find("text.embed.embedding")[1] == ("model.text.wte.weight",)
        assert nested.ignores("model.text.h.0.attn.masked_bias") and nested.ignores("model.text.rotary.inv_freq")
        assert not nested.ignores("model.vision.rotary.inv_freq")
        assert MAP.under("", "").rules == MAP.rules

    def test_alternatives_are_read_and_the_first_is_written(self) -> None:
        keys = KeyMap({"embed": Part("shared", also=("encoder.embed_tokens",))})
        assert keys.find("embed.embedding")[1] == ("shared.weight", "encoder.embed_tokens.weight")

    def test_knows_only_rules_without_layers(self) -> None:
        assert MAP.knows("wte.weight") and MAP.knows("cls_token.x") and not MAP.knows("h.0.attn.o_proj.weight")


def test_logical_path_reads_ranges() -> None:
    assert logical_path(("layers", "0:26:2", "1", "attn")) == ("layers.{}.attn", range(1, 26, 2))
    assert logical_path(("layers", "25", "attn")) == ("layers.25.attn", None)


@given(st.integers(2, 5).flatmap(lambda n: st.tuples(*[st.integers(1, 4)] * n)))
def test_layouts_are_inverse(shape: tuple[int, ...]) -> None:
    x = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(to_ours("kernel", to_theirs("kernel", x)), x)
    assert to_theirs("kernel", x).shape[:2] == (shape[-1], shape[-2])
    assert to_theirs("scale", x) is x


HEADS, DIM, FAR = 2, 3, 5


@st.composite
def models(draw):
    """A random tree of ours and a key map for it: plain, fused, transposed, per-expert, stacked and nested leaves."""
    layers = draw(st.integers(1, 4))
    kinds = draw(
        st.lists(
            st.sampled_from(["plain", "fused", "interleaved", "in_out", "experts", "conv"]), min_size=1, unique=True
        )
    )
    period = draw(st.integers(1, 2)) if layers % 2 == 0 else 1
    stacked = draw(st.booleans()) and layers > period
    rules: dict[str, str | Part] = {"norm": "ln_f"}
    shapes: dict[tuple[str, ...], tuple[int, ...]] = {("norm", "scale"): (FAR,), ("norm", "bias"): (FAR,)}
    for kind in kinds:
        if kind == "plain":
            rules["layers.{i}.plain.{*}"] = "h.{i}.deep.{*}"
            shapes |= {("plain", "a", "kernel"): (FAR, 4), ("plain", "a", "bias"): (4,), ("plain", "b", "scale"): (4,)}
        elif kind == "fused":
            for n, p in enumerate("qkv"):
                rules[f"layers.{{i}}.{p}"] = Part("h.{i}.qkv", (3, HEADS * DIM), n)
                shapes |= {(p, "kernel"): (FAR, HEADS * DIM), (p, "bias"): (HEADS * DIM,)}
        elif kind == "interleaved":
            for n, p in enumerate("abc"):
                rules[f"layers.{{i}}.{p}"] = Part("h.{i}.mixed", (HEADS, 3, DIM), (slice(None), n))
                shapes[(p, "kernel")] = (FAR, HEADS * DIM)
        elif kind == "in_out":
            rules["layers.{i}.turned"] = Part("h.{i}.turned", in_out=True)
            shapes[("turned", "kernel")] = (FAR, 7)
        elif kind == "experts":
            rules["layers.{i}.experts.up"] = "h.{i}.experts.{e}.w1"
            shapes[("experts", "up", "kernel")] = (3, FAR, 4)
        else:
            rules["layers.{i}.conv"] = "h.{i}.conv"
            shapes[("conv", "kernel")] = (3, 3, FAR, 4)
    flat = {}
    count = iter(range(10**6))
    for path, shape in shapes.items():
        if path[0] == "norm":
            flat[path] = (shape, next(count))
            continue
        for place in range(period) if stacked else range(layers):
            at = ("layers", f"0:{layers}:{period}", str(place)) if stacked else ("layers", str(place))
            flat[(*at, *path)] = ((layers // period, *shape) if stacked else shape, next(count))
    dtype = draw(st.sampled_from(["float32", "bfloat16", "float16"]))
    prefix = draw(st.sampled_from(["", "model", "a.b"]))
    params = {}
    for path, (shape, seed) in flat.items():
        params[path] = jax.numpy.asarray(np.random.RandomState(seed).randn(*shape), dtype)
    return KeyMap(rules).under("", prefix), unflatten(params)


@settings(max_examples=60, deadline=None)
@given(models())
def test_random_trees_round_trip(case) -> None:
    keys, params = case
    tensors = dict(to_hf(keys, params))
    assert sum(t.size for t in tensors.values()) == sum(x.size for x in jax.tree.leaves(params))
    again = load_params(keys, jax.eval_shape(lambda: params), tensors)
    for path, leaf in flatten(params).items():
        back = flatten(again)[path]
        assert back.dtype == leaf.dtype and np.asarray(back).tobytes() == np.asarray(leaf).tobytes(), path
    twice = dict(to_hf(keys, again))
    assert all(twice[k].tobytes() == tensors[k].tobytes() for k in tensors)


@settings(max_examples=20, deadline=None)
@given(models(), st.randoms())
def test_a_lost_or_foreign_tensor_is_named(case, random) -> None:
    keys, params = case
    tensors = dict(to_hf(keys, params))
    key = random.choice(sorted(tensors))
    lost = {k: v for k, v in tensors.items() if k != key}
    with pytest.raises(CheckpointError, match="not in the checkpoint"):
        load_params(keys, jax.eval_shape(lambda: params), lost)
    with pytest.raises(CheckpointError, match="does not read: foreign.weight"):
        load_params(keys, jax.eval_shape(lambda: params), {**tensors, "foreign.weight": np.ones(3)})
    with pytest.raises(CheckpointError, match=f"^{key} has shape"):
        load_params(keys, jax.eval_shape(lambda: params), {**tensors, key: np.ones((2, 2, 2, 2, 2), np.float32)})
