"""A Model with adapters is a Model everywhere: pytree, layouts, meshes, generation, training, dropout, vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

import jaxformers as jf
from jaxformers.core.errors import AdapterError
from jaxformers.hub.abstract import flatten
from jaxformers.hub.model import Model, _forward
from jaxformers.training.step import make_train_step
from tests.adapters import sides

CONFIG = jf.AutoConfig.for_model("llama", **sides.LLAMA)
IDS = np.random.RandomState(0).randint(3, 96, (4, 8))
PATTERNS = dict(layers=[0, 2], rank_pattern={r"layers\.2\..*q_proj": 5})


@pytest.fixture(scope="module")
def plain() -> Model:
    return Model.init(CONFIG, jax.random.key(0), task="CausalLM")


@pytest.fixture(scope="module")
def adapted(plain) -> Model:
    """An adapter on some layers, of mixed ranks."""
    return sides.perturbed(jf.lora(plain, 3, ["q_proj", "up_proj"], alpha=6, key=jax.random.key(1), **PATTERNS))


def test_without_adapters_nothing_is_different(plain):
    keys = [path for path, _ in jax.tree_util.tree_leaves_with_path(plain)]
    assert {path[0] for path in keys} == {jax.tree_util.GetAttrKey("params")}
    assert len(jax.tree_util.tree_flatten(plain, is_leaf=lambda x: x is plain.params)[0]) == 1
    assert plain.variables.keys() == {"params"}


def test_leaves_are_named_and_counted(plain, adapted):
    paths = {path[0].name for path, _ in jax.tree_util.tree_leaves_with_path(adapted)}
    assert paths == {"params", "adapters"} and "adapters=" in repr(adapted)
    leaves, tree = jax.tree.flatten(adapted)
    assert jax.tree.structure(jax.tree.unflatten(tree, leaves)) == tree
    assert adapted.replace(adapters=None).adapter is None
    assert jax.tree.structure(adapted.replace(adapters=None)) == jax.tree.structure(plain)


def test_equal_adapters_share_a_program(adapted):
    adapted(IDS)
    count = _forward._cache_size()
    twin = jax.tree.map(lambda x: x + 0.5, adapted)
    assert not np.allclose(adapted(IDS).logits, twin(IDS).logits)
    assert _forward._cache_size() == count


def test_layouts_hold_the_same_and_fresh_values_are_equal(plain, adapted):
    stacked = jf.restack(adapted, scan=True)
    shapes = {path[-2:]: leaf.shape for path, leaf in flatten(stacked.adapters).items()}
    assert shapes["q_proj", "a"] == (3, 5, 32) and shapes["up_proj", "b"] == (3, 48, 3)
    np.testing.assert_allclose(stacked(IDS).logits, adapted(IDS).logits, atol=1e-5)
    back = jf.restack(stacked, scan=False)
    jax.tree.map(np.testing.assert_array_equal, back.adapters, adapted.adapters)
    options = dict(rank=3, targets=["q_proj", "up_proj"], key=jax.random.key(1), **PATTERNS)
    first = jf.restack(jf.lora(jf.restack(plain, scan=True), **options), scan=False)
    jax.tree.map(np.testing.assert_array_equal, first.adapters, jf.lora(plain, **options).adapters)


def test_places_of_layers_without_adapters_get_no_gradient(adapted):
    stacked = jf.restack(adapted, scan=True)
    grads = jax.grad(lambda a: stacked.replace(adapters=a)(IDS).logits.sum())(stacked.adapters)
    for path, grad in flatten(grads).items():
        assert np.abs(grad[0]).max() > 0 and not np.any(grad[1]), path


def test_generation_reads_the_adapter(plain, adapted):
    big = sides.perturbed(adapted, 2.0)
    mine, base = (m.generate(IDS[:, :4], max_new_tokens=6) for m in (big, plain))
    merged = jf.merge_adapters(big).generate(IDS[:, :4], max_new_tokens=6)
    np.testing.assert_array_equal(mine, merged)
    assert not np.array_equal(mine, base)
    np.testing.assert_array_equal(jf.restack(big, scan=True).generate(IDS[:, :4], max_new_tokens=6), mine)


def test_dropout_needs_training_and_a_key(plain):
    model = sides.perturbed(jf.lora(plain, 3, ["q_proj", "embed_tokens"], dropout=0.5))
    a, b = (np.asarray(model(IDS, train=True, key=jax.random.key(n)).logits) for n in (1, 2))
    quiet = np.asarray(model(IDS).logits)
    assert not np.allclose(a, b) and not np.allclose(a, quiet)
    np.testing.assert_array_equal(quiet, model(IDS, key=jax.random.key(1)).logits)
    many = [jf.restack(model, scan=True)(IDS, train=True, key=jax.random.key(n)).logits for n in range(2)]
    assert not np.allclose(many[0], many[1])


def test_a_mesh_shards_adapters_by_the_rules(plain, adapted, tmp_path):
    plain.save_pretrained(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")
    mesh = jf.make_mesh(fsdp=2, tensor=4)
    base = Model.from_pretrained(tmp_path / "base", mesh=mesh, rules=jf.FSDP_TENSOR, scan=True)
    for model in (jf.load_adapter(base, tmp_path / "adapter"), jf.lora(base, 4, ["q_proj", "up_proj"])):
        specs = {path[-2:]: leaf.sharding.spec for path, leaf in flatten(model.adapters).items()}
        assert specs["q_proj", "a"] == PartitionSpec(None, None, "fsdp")
        assert specs["up_proj", "b"] == PartitionSpec(None, "tensor", None)
    loaded = jf.load_adapter(base, tmp_path / "adapter")
    np.testing.assert_allclose(loaded(IDS).logits, adapted(IDS).logits, atol=1e-5)
    rows = {row.path: row for row in jf.shardings(loaded)}
    assert rows["lora/backbone/layers/0:3:1/0/mlp/up_proj/b"].names == ("layers", "mlp", None)
    merged = jf.merge_adapters(loaded)
    weight = merged.params["backbone"]["layers"]["0:3:1"]["0"]["mlp"]["up_proj"]["weight"]
    assert weight.sharding.spec == PartitionSpec(None, "tensor", "fsdp")


def test_a_train_step_trains_the_adapter_alone(plain):
    mesh = jf.make_mesh(fsdp=2, tensor=4)
    model = jf.lora(jf.restack(plain, scan=True), 4, "all-linear", dropout=0.1)
    step = make_train_step(jf.loss_for(model), optax.adam(1e-2), mesh=mesh, rules=jf.FSDP_TENSOR)
    state = step.init(model, jax.random.key(0))
    spec = state.model.adapters["lora"]["backbone"]["layers"]["0:3:1"]["0"]["mlp"]["up_proj"]["b"].sharding.spec
    assert spec == PartitionSpec(None, "tensor", None) or spec == PartitionSpec(None, "tensor")
    before = jax.tree.map(np.array, state.model)
    losses = []
    for _ in range(3):
        state, metrics = step(state, {"input_ids": jnp.asarray(IDS), "labels": jnp.asarray(IDS)})
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    jax.tree.map(np.testing.assert_array_equal, state.model.params, before.params)
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), state.model.adapters, before.adapters)
    assert all(jax.tree.leaves(moved))
    assert jax.tree.structure(state.opt_state[0].mu).num_leaves == len(jax.tree.leaves(model.adapters))


def test_more_words_lengthen_the_adapters_of_tables(plain):
    model = sides.perturbed(jf.lora(plain, 3, ["embed_tokens", "lm_head"]))
    grown = model.resize_token_embeddings(100)
    np.testing.assert_allclose(grown(IDS).logits[..., :96], model(IDS).logits, atol=1e-5)
    again = grown.resize_token_embeddings(96)
    jax.tree.map(np.testing.assert_array_equal, again.adapters, model.adapters)


def test_tied_tables_are_not_merged():
    config = CONFIG.replace(tie_word_embeddings=True)
    model = jf.lora(Model.init(config, jax.random.key(0), task="CausalLM"), 2, ["embed_tokens"])
    with pytest.raises(AdapterError, match="also the language-model head's matrix"):
        jf.merge_adapters(model)


def test_one_adapter_at_a_time(plain, adapted, tmp_path):
    adapted.save_pretrained(tmp_path)
    for make in (lambda: jf.lora(adapted, 2), lambda: jf.load_adapter(adapted, tmp_path)):
        with pytest.raises(AdapterError, match="merge it first"):
            make()
    with pytest.raises(AdapterError, match="no adapter to merge"):
        jf.merge_adapters(plain)
    with pytest.raises(AdapterError, match="not merged"):
        jf.unmerge_adapters(adapted, tmp_path)


def test_losses_that_never_hold_the_scores_see_the_heads_adapter(plain):
    """The chunked cross-entropy multiplies by the head's matrix itself."""
    model = sides.perturbed(jf.lora(plain, 3, ["lm_head"]))
    loss, batch = jf.loss_for(model), {"input_ids": jnp.asarray(IDS), "labels": jnp.asarray(IDS)}

    def chunked(adapters):
        return loss(model.replace(adapters=adapters), batch, None).loss

    def whole(adapters):
        logits = model.replace(adapters=adapters)(IDS[:, :-1]).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, IDS[:, 1:]).mean()

    (a, grads), (b, expected) = (jax.value_and_grad(f)(model.adapters) for f in (chunked, whole))
    np.testing.assert_allclose(a, b, rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), grads, expected)
