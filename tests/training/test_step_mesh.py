"""The train step on a mesh: state placed as parameters are, micro-batches that move no rows, programs of shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

import jaxformers as jf
from jaxformers.hub.abstract_model import abstract_model
from tests.training import linear

KEY = jax.random.key(1)
MODEL = dict(vocab_size=32, hidden_size=16, intermediate_size=32, num_attention_heads=4, num_key_value_heads=2)


def causal(model: jf.Model, batch: dict, key: jax.Array | None) -> jf.LossOutput:
    """The plain loss of the next token, of a whole model."""
    logits = model(input_ids=batch["input_ids"]).logits.astype(jnp.float32)
    counts = batch["labels"] != -100
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(counts, batch["labels"], 0))
    return jf.LossOutput(jnp.sum(losses * counts), jnp.sum(counts).astype(jnp.float32))


def specs(tree) -> list[PartitionSpec]:
    return [x.sharding.spec for x in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
    return jf.make_mesh(data=2, fsdp=2, tensor=2)


def test_equals_one_device_and_keeps_its_places(mesh) -> None:
    """A whole model, in two micro-batches with remat: on one device in one piece, on eight in two."""
    model, batch = linear.model(True, **MODEL), linear.batch(rows=16)
    optimizer = jf.optimizer("adamw", jf.schedule("cosine", 0.1, steps=10), weight_decay=0.1)
    one = jf.make_train_step(causal, optimizer, max_grad_norm=0.5)
    many = jf.make_train_step(
        causal,
        optimizer,
        max_grad_norm=0.5,
        mesh=mesh,
        rules=jf.FSDP_TENSOR,
        accumulate=2,
        remat="save:context",
        ema=0.5,
    )
    alone, spread = one.init(model, KEY), many.init(model, KEY)
    places = [x.sharding for x in jax.tree.leaves(spread)]
    moments = spread.opt_state.inner_state[0]
    assert specs(moments.mu) == specs(moments.nu) == specs(spread.model.params) == specs(spread.ema)
    cut = [spec for spec in specs(moments.mu) if any(spec)]
    assert len(cut) >= 9  # all matrices; norms are whole
    assert PartitionSpec(None, "tensor", "fsdp") in cut
    for _ in range(2):
        alone, left = one(alone, batch)
        spread, right = many(spread, batch)
        for name in ("loss", "grad_norm", "weight", "learning_rate"):
            assert float(left[name]) == pytest.approx(float(right[name]), rel=1e-5)
    assert [x.sharding for x in jax.tree.leaves(spread)] == places
    linear.assert_same(alone.model, spread.model, atol=1e-4)


def test_factored_moments_follow_their_parameters(mesh) -> None:
    step = jf.make_train_step(linear.loss, jf.optimizer("adafactor", 0.1), mesh=mesh, rules=jf.FSDP_TENSOR)
    for scan in (False, True):
        state, _ = step.abstract(linear.model(scan, **MODEL), linear.batch())
        groups = state.opt_state.inner_state
        head = groups["1"][0]
        assert head.v_col["head"]["weight"].shape == (32,) and head.v_row["head"]["weight"].shape == (16,)
        assert head.v_col["head"]["weight"].sharding.spec == PartitionSpec("tensor")
        assert head.v_row["head"]["weight"].sharding.spec == PartitionSpec("fsdp")
        assert groups.keys() == ({"1", "2"} if scan else {"1"})
    stacked = groups["2"][0].v_col["backbone"]["layers"]["0:2:1"]["0"]["mlp"]["up_proj"]["weight"]
    assert stacked.shape == (2, 32) and stacked.sharding.spec == PartitionSpec(None, "tensor")


def test_a_model_on_a_mesh_needs_no_other(mesh) -> None:
    model = jf.Model.init(linear.model(**MODEL).config, KEY, task="CausalLM", mesh=mesh, rules=jf.FSDP)
    step = jf.make_train_step(linear.loss, optax.sgd(0.1))
    state = step.init(model, KEY)
    before = linear.leaves(model)
    state, _ = step(state, linear.batch())
    assert state.model.mesh == model.mesh and specs(state.model) == specs(model)
    linear.assert_same(before, model)  # its buffers were copied, though they lay in the right place


def test_lowers_for_shapes(mesh) -> None:
    """As ahead-of-time plans do: nothing is allocated, and the program is that of the real arrays."""
    config = linear.model(**MODEL).config
    model = abstract_model(config, task="CausalLM", mesh=mesh, rules=jf.FSDP_TENSOR, scan=True)
    step = jf.make_train_step(linear.loss, ADAM := optax.adam(0.1), accumulate=2, dtype="bfloat16")
    state, batch = step.abstract(model, {k: jax.ShapeDtypeStruct((16, 5), jnp.int32) for k in linear.batch()})
    assert batch["labels"].sharding.spec == PartitionSpec(("data", "fsdp"), None)
    lowered = step.lower(state, batch)
    real = jf.make_train_step(linear.loss, ADAM, accumulate=2, dtype="bfloat16", mesh=mesh, rules=jf.FSDP_TENSOR)
    made = real.init(linear.model(True, **MODEL), KEY)
    assert jax.tree.structure(made) == jax.tree.structure(state)
    for real_leaf, shape in zip(jax.tree.leaves(made), jax.tree.leaves(state), strict=True):
        assert (real_leaf.shape, real_leaf.dtype, real_leaf.sharding) == (shape.shape, shape.dtype, shape.sharding)
    assert lowered.as_text() == real.lower(made, batch).as_text()


def test_micro_batches_move_no_rows(mesh) -> None:
    """Rows i, i + n, ... lie on their device already: the split is no communication."""
    step = jf.make_train_step(linear.loss, optax.sgd(0.1), accumulate=4, mesh=mesh, rules=jf.DATA)
    state = step.init(linear.model(**MODEL), KEY)
    text = step.lower(state, {k: np.asarray(v, np.int32) for k, v in linear.batch(rows=16).items()}).compile().as_text()
    assert "all-reduce" in text
    assert not {"all-to-all", "collective-permute", "all-gather"} & set(text.replace("(", " ").split())
