"""On eight virtual devices: the numbers of one device, shards of the expected shapes, constraints in the program."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxformers as jf
from jaxformers.core.sharding import Rules, auto_mesh, constrain, over_shards, spec, use_mesh
from tests.hub import tiny

IDS = np.random.RandomState(0).randint(3, 96, (8, 16))
CASES = {
    "FSDP": (jf.FSDP, {"data": 2, "fsdp": 4}),
    "TENSOR": (jf.TENSOR, {"data": 2, "tensor": 4}),
    "FSDP_TENSOR": (jf.FSDP_TENSOR, {"fsdp": 2, "tensor": 4}),
}
# Shard of q_proj [64,64], o_proj [64,64], down_proj [64,128], embed [96,64] for one of the eight devices.
SHARDS = {
    "FSDP": [(64, 16), (16, 64), (16, 128), (96, 16)],
    "TENSOR": [(16, 64), (64, 16), (64, 32), (24, 64)],
    "FSDP_TENSOR": [(16, 32), (32, 16), (32, 32), (24, 32)],
}
PATHS = [
    "layers/1/attn/q_proj/weight",
    "layers/1/attn/o_proj/weight",
    "layers/1/mlp/down_proj/weight",
    "embed/embedding",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    tiny.llama(path)
    return path


def leaf(params: dict, path: str) -> jax.Array:
    for word in path.split("/"):
        params = params[word]
    return params


def loss(model: jf.Model) -> jax.Array:
    logits = model(input_ids=IDS).logits[:, :-1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, IDS[:, 1:]).mean()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scan", [False, True], ids=["per layer", "scanned"])
def test_same_numbers_on_a_mesh(name: str, scan: bool, folder: Path) -> None:
    rules, axes = CASES[name]
    alone = jf.AutoModelForCausalLM.from_pretrained(folder, scan=scan)
    spread = jf.AutoModelForCausalLM.from_pretrained(folder, scan=scan, mesh=jf.make_mesh(**axes), rules=rules)
    want, got = alone(input_ids=IDS).logits, spread(input_ids=IDS).logits
    np.testing.assert_allclose(got, want, atol=1e-5)
    a, b = jax.jit(jax.value_and_grad(loss))(alone), jax.jit(jax.value_and_grad(loss))(spread)
    np.testing.assert_allclose(b[0], a[0], rtol=1e-5)
    for x, y in zip(jax.tree.leaves(a[1]), jax.tree.leaves(b[1]), strict=True):
        np.testing.assert_allclose(y, x, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_shards_have_the_expected_shapes(name: str, folder: Path) -> None:
    rules, axes = CASES[name]
    model = jf.AutoModelForCausalLM.from_pretrained(folder, mesh=jf.make_mesh(**axes), rules=rules)
    for path, shape in zip(PATHS, SHARDS[name], strict=True):
        array = leaf(model.params["backbone"], path)
        assert {s.data.shape for s in array.addressable_shards} == {shape}, path
        assert len(array.addressable_shards) == 8


@pytest.mark.parametrize(
    ("name", "collective"), [("FSDP", "all-gather"), ("TENSOR", "all-reduce"), ("FSDP_TENSOR", "all-reduce")]
)
def test_constraints_are_in_the_program(name: str, collective: str, folder: Path) -> None:
    """Activations are pinned in what XLA gets, and what XLA makes of it moves data as the rules say."""
    rules, axes = CASES[name]
    model = jf.AutoModelForCausalLM.from_pretrained(folder, mesh=jf.make_mesh(**axes), rules=rules)
    lowered = jax.jit(lambda m: m(input_ids=IDS).logits).lower(model)
    pins = lowered.as_text().count("sharding_constraint")
    # q, k, v, the hidden feed-forward and the block's output in each layer, the embedding and the logits
    assert pins >= 5 * tiny.SIZES["num_hidden_layers"] + 2, pins
    compiled = lowered.compile().as_text()
    assert collective in compiled
    alone = jf.AutoModelForCausalLM.from_pretrained(folder)
    plain = jax.jit(lambda m: m(input_ids=IDS).logits).lower(alone).as_text()
    assert plain.count("sharding_constraint") == 0


def test_each_process_reads_only_its_shards(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader is asked for slices, never for whole sharded tensors."""
    from jaxformers.hub import load

    asked: list[tuple[str, int, int]] = []
    real = load.read_slice

    def spy(source, tensors, index, dtype):
        out = real(source, tensors, index, dtype)
        asked.append((source.name, out.size, int(np.prod(source.shape))))
        return out

    monkeypatch.setattr(load, "read_slice", spy)
    jf.AutoModelForCausalLM.from_pretrained(folder, mesh=jf.make_mesh(fsdp=8), rules=jf.FSDP)
    weights = [(size, whole) for name, size, whole in asked if name.endswith("weight")]
    assert weights and all(8 * size == whole for size, whole in weights)


def test_scanned_leaves_shard_behind_the_layer_axis(folder: Path) -> None:
    mesh = jf.make_mesh(fsdp=2, tensor=4)
    model = jf.AutoModelForCausalLM.from_pretrained(folder, scan=True, mesh=mesh, rules=jf.FSDP_TENSOR)
    array = leaf(model.params["backbone"], "layers/0:4:1/0/attn/q_proj/weight")
    assert array.shape == (4, 64, 64)
    assert {s.data.shape for s in array.addressable_shards} == {(4, 16, 32)}


def test_saving_gathers(folder: Path, tmp_path: Path) -> None:
    """A sharded model writes the same file as it was read from."""
    from jaxformers.hub.checkpoint import open_checkpoint

    model = jf.AutoModelForCausalLM.from_pretrained(folder, mesh=jf.make_mesh(fsdp=8), rules=jf.FSDP)
    model.save_pretrained(tmp_path)
    a, b = open_checkpoint(folder), open_checkpoint(tmp_path)
    assert set(a) == set(b)
    assert all(a[k].tobytes() == b[k].tobytes() for k in a)


def test_init_on_a_mesh_gives_the_same_values() -> None:
    config = jf.AutoConfig.for_model("llama", **tiny.SIZES)
    here = jf.Model.init(config, jax.random.key(3), task="CausalLM")
    there = jf.Model.init(config, jax.random.key(3), task="CausalLM", mesh=jf.make_mesh(fsdp=8), rules=jf.FSDP)
    stacked = jf.Model.init(config, jax.random.key(3), task="CausalLM", scan=True)
    for other in (there, jf.restack(stacked, scan=False)):
        for x, y in zip(jax.tree.leaves(here), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(x, y)


def test_cached_decode_on_a_mesh(folder: Path) -> None:
    model = jf.AutoModelForCausalLM.from_pretrained(folder, mesh=jf.make_mesh(data=2, tensor=4), rules=jf.TENSOR)
    want = model(input_ids=IDS).logits
    out = model(input_ids=IDS[:, :5], past_key_values=model.init_cache(8, 16))
    rest = model(input_ids=IDS[:, 5:], past_key_values=out.past_key_values)
    np.testing.assert_allclose(jnp.concatenate([out.logits, rest.logits], 1), want, atol=1e-5)


class TestRules:
    mesh = jax.sharding.AbstractMesh((2, 4), ("fsdp", "tensor"))

    def test_an_axis_that_does_not_divide_is_dropped(self) -> None:
        assert spec(("embed", "heads"), (64, 6), self.mesh, jf.FSDP_TENSOR) == jax.P("fsdp", None)

    def test_one_line_says_so(self, caplog: pytest.LogCaptureFixture) -> None:
        """Of activations too; but one token or one row is what decoding is about, and no news."""
        with use_mesh(jf.make_mesh(fsdp=2, tensor=4), jf.FSDP_TENSOR):
            for _ in range(2):
                jax.eval_shape(lambda x: constrain(x, "batch", None, "heads"), jnp.ones((1, 3, 4 * 5 + 2)))
        (line,) = [r.message for r in caplog.records]
        assert line == "axis 'heads' of size 22 does not divide by mesh axis 'tensor' of size 4: it stays whole"

    def test_inside_a_shard_map_its_axes_are_taken(self) -> None:
        mesh = jf.make_mesh(fsdp=2, tensor=4)

        def inner(x: jax.Array) -> jax.Array:
            half = over_shards(lambda y: jax.lax.psum(y, "fsdp"), jax.P("fsdp"), jax.P())
            return constrain(x * 2, "batch", "heads") + half(x)

        with use_mesh(mesh, jf.FSDP_TENSOR):
            outer = jax.shard_map(
                inner, mesh=mesh, in_specs=jax.P(None, "tensor"), out_specs=jax.P(None, "tensor"),
                axis_names={"tensor"}, check_vma=False,
            )  # fmt: skip
            x = jnp.arange(16.0).reshape(2, 8)
            got = jax.jit(outer)(x)
        np.testing.assert_array_equal(got, 2 * x + x.sum(0))

    def test_a_mesh_axis_is_used_once(self) -> None:
        rules: Rules = (("embed", "fsdp"), ("vocab", "fsdp"))
        assert spec(("embed", "vocab"), (64, 96), self.mesh, rules) == jax.P("fsdp", None)

    def test_foreign_axis_names_are_refused(self) -> None:
        mesh = jf.make_mesh(x=2, y=4)
        with pytest.raises(ValueError, match=r"the mesh has axes \('x', 'y'\).*rename"):
            auto_mesh(mesh, jf.FSDP)

    def test_a_mesh_that_does_not_fit_the_devices_is_refused(self) -> None:
        with pytest.raises(ValueError, match="9 places for 8 devices"):
            jf.make_mesh(data=3, fsdp=3)

    def test_explicit_meshes_become_auto(self) -> None:
        mesh = jax.make_mesh((8,), ("fsdp",))
        assert set(auto_mesh(mesh, jf.FSDP).axis_types) == {jax.sharding.AxisType.Auto}
