"""A pipeline computes the loss and gradients of one device, and so it does with all other parallelism in its stages."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.core.context import Context
from jaxformers.core.mask import Mask
from jaxformers.core.sharding import Rules, use_mesh
from jaxformers.nn.pipeline import choose_microbatches, flow, plan_on
from jaxformers.planning.hlo import group
from tests.training.parallel import IDS, REAL, B, T, check, collectives, spread, tiny

LAYERS = 4
Mix = tuple[dict[str, int], Rules]
MIXES: dict[str, Mix] = {
    "2 stages, fsdp, tensor": (dict(stage=2, fsdp=2, tensor=2), jf.PIPELINE),
    "4 stages, data": (dict(stage=4, data=2), jf.PIPELINE),
    "4 stages, fsdp": (dict(stage=4, fsdp=2), jf.PIPELINE),
    "2 stages, data, tensor": (dict(stage=2, data=2, tensor=2), jf.PIPELINE),
    "2 stages, fsdp, sequence": (dict(stage=2, fsdp=2, sequence=2), jf.in_stages(jf.SEQUENCE)),
    "2 stages, fsdp, expert": (dict(stage=2, fsdp=2, expert=2), jf.in_stages(jf.EXPERT)),
}
QUICK = {("llama", "2 stages, fsdp, tensor"), ("mixtral", "4 stages, data")}


def cases() -> list:
    """Every family with every mix that has something for it to do."""
    pairs = [(kind, mix) for kind in ("llama", "mixtral", "t5", "vit") for mix in list(MIXES)[:4]]
    pairs = [(kind, mix) for kind, mix in pairs if kind != "t5" or MIXES[mix][0]["stage"] == 2]  # it has two layers
    pairs += [("llama", "2 stages, fsdp, sequence"), ("mixtral", "2 stages, fsdp, expert")]
    return [pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow) for pair in pairs]


@pytest.mark.parametrize(("kind", "mix"), cases())
def test_loss_and_gradients(kind: str, mix: str) -> None:
    """Padding, encoders' outputs and routers' losses included."""
    axes, rules = MIXES[mix]
    # T5's scores are not scaled: rounding moves its biases' gradients by 2e-5. In float64 all are equal to 1e-7.
    model, program = check(f"even {kind}", True, axes, rules, atol=3e-5 if kind == "t5" else 1e-5)
    text = program.as_text()
    assert "collective-permute" in collectives(text)
    assert_stages_keep_their_layers(model, text, axes["stage"])


def assert_stages_keep_their_layers(model: jf.Model, text: str, stages: int) -> None:
    """Each stage holds its own layers alone, and what layers gather stays inside of a stage."""
    stacked = [row for row in jf.shardings(model) if ":" in row.path and len(row.shape) > 2]
    assert stacked and all(row.spec[0] == "stage" and row.shard[0] == row.shape[0] // stages for row in stacked)
    # A matrix of (T, width) would look like a microbatch, which is gathered.
    matrices = [row.shape for row in stacked if row.shape[-2] != T]
    whole = {*matrices, *((stages, shape[0] // stages, *shape[1:]) for shape in matrices)}
    gathers = [line for line in text.splitlines() if re.search(r" all-gather(-start)?\(", line)]
    assert not whole & set(collectives("\n".join(gathers)).get("all-gather", ()))
    inside = [line for line in gathers if "Pattern" in line]
    assert inside or "fsdp" not in model.mesh.axis_names
    for line in inside:
        assert len({device // (8 // stages) for device in group(line)}) == 1, line


@pytest.mark.parametrize("kind", ["llama", pytest.param("mixtral", marks=pytest.mark.slow)])
def test_the_train_step(kind: str) -> None:
    """Packed documents, the task's own loss, two accumulated parts of two microbatches each, and remat."""
    model = tiny(f"even {kind}", True)
    ids = np.concatenate([IDS, IDS[:, ::-1]])
    ends = np.array([[6], [9]] * B)  # documents end where another row's do not
    segments = np.where(np.arange(T) < ends, 1, np.where(np.arange(T) < T - 2, 2, 0))
    batch = {"input_ids": ids, "labels": np.where(segments > 0, ids, -100), "segment_ids": segments}
    settings = {"optimizer": jf.optimizer("adamw", 1e-2), "accumulate": 2, "remat": "full"}
    mesh = jf.make_mesh(stage=2, fsdp=2, tensor=2)
    one = jf.make_train_step(jf.loss_for(model), **settings)
    many = jf.make_train_step(jf.loss_for(model), **settings, mesh=mesh, rules=jf.PIPELINE, pipeline_microbatches=2)
    alone, spread = one.init(model, jax.random.key(1)), many.init(model, jax.random.key(1))
    for _ in range(2):
        alone, left = one(alone, batch)
        spread, right = many(spread, batch)
        for name in ("loss", "grad_norm", "weight"):
            assert float(left[name]) == pytest.approx(float(right[name]), rel=1e-5), name
    moments = [x for x in jax.tree.leaves(spread.opt_state) if x.shape[:1] == (LAYERS,)]
    assert moments and all(x.sharding.spec[0] == "stage" for x in moments)
    # An evaluation's batch need not divide by the step's microbatches.
    few = {name: x[:3] for name, x in batch.items()}
    evaluate = jf.make_eval_step(jf.loss_for(model))
    want, found = evaluate(alone.model, few), evaluate(spread.model, few)
    assert float(found.total) == pytest.approx(float(want.total), rel=1e-4)


def test_records() -> None:
    """What callers ask to see of each layer comes in order, layer by layer and row by row."""
    model = spread("even llama", True, dict(stage=2, data=2, tensor=2), jf.PIPELINE)
    asked = dict(input_ids=IDS, attention_mask=REAL, output_hidden_states=True, output_attentions=True)
    found, want = model(**asked), tiny("even llama", True)(**asked)
    assert len(found.hidden_states) == LAYERS + 1 and len(found.attentions) == LAYERS
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4)


def test_decoding() -> None:
    """With a cache."""
    model = spread("even llama", True, dict(stage=4, data=2), jf.PIPELINE)
    settings = dict(max_new_tokens=4, do_sample=False, eos_token_id=None)
    want = tiny("even llama", True).generate(IDS[:2, :6], **settings)
    np.testing.assert_array_equal(model.generate(IDS[:2, :6], **settings), want)


def test_every_layer_and_microbatch_draws_its_own() -> None:
    plan = plan_on(jf.make_mesh(stage=2, data=4), jf.PIPELINE, 4, 8, None)
    assert plan is not None and (plan.stages, plan.microbatches) == (2, 2)

    def layer(variables, x: jax.Array, ctx: Context, keys: dict) -> tuple:
        drawn = jax.random.bits(keys["dropout"], (1,))
        return x, jnp.broadcast_to(drawn, x.shape[:1])

    x, keys = jnp.zeros((8, 1, 1)), {"dropout": jax.random.key(0)}
    run = jax.jit(lambda x: flow(plan, layer, jnp.zeros((4, 1)), x, Context.plain(1), keys))
    drawn = np.asarray(run(x)[1])
    assert drawn.shape == (4, 8)
    np.testing.assert_array_equal(drawn[:, ::2], drawn[:, :1] * np.ones((1, 4), int))  # rows 0, 2, ... go together
    assert len(np.unique(drawn)) == 4 * 2


def test_what_flows_along() -> None:
    """Arrays with something for each example, and no tables."""
    ctx = Context.plain(4, mask=Mask(keys=jnp.ones((4, 4), bool)), bias=jnp.zeros((1, 2, 4, 4)))
    ctx = ctx.replace(features=(jnp.zeros((4, 3)), jnp.zeros((4, 4, 3))), encoder=jnp.zeros((4, 7, 3)))
    told = ctx.by_row(4)
    assert (told.positions, told.slots, told.bias, told.features) == (False, False, False, (False, True))
    assert told.mask.keys and told.encoder


def test_microbatches() -> None:
    assert choose_microbatches(64, 8, 4) == 8
    assert choose_microbatches(8, 8, 4) == 2  # four rows are left for four devices
    assert choose_microbatches(6, 4, 4) == 3  # none leaves as many
    assert choose_microbatches(1, 4, 1) == 1


def test_what_cannot_be() -> None:
    model, ids = tiny("even llama", True), IDS[:4]
    three = jf.make_mesh(stage=3, devices=jax.devices()[:3])
    with pytest.raises(ValueError, match="3 stages .* repeat 4 times: make the number of stages a divisor"):
        jax.eval_shape(model.replace(mesh=three, rules=jf.PIPELINE), ids)
    mesh = jf.make_mesh(stage=2, devices=jax.devices()[:2])
    step = jf.make_train_step(
        jf.loss_for(model), jf.optimizer("sgd", 0.1), mesh=mesh, rules=jf.PIPELINE, pipeline_microbatches=3
    )
    state, batch = step.abstract(model, {"input_ids": ids, "labels": ids})
    with pytest.raises(ValueError, match="batch of 4 rows does not divide into 3 microbatches"):
        step.lower(state, batch)
    with pytest.raises(ValueError, match="not stacked: make or load it with scan=True"):
        step.abstract(tiny("even llama", False), batch)
    with pytest.raises(ValueError, match="pipeline_microbatches is 0; expected 1 or more"):
        jf.make_train_step(jf.loss_for(model), jf.optimizer("sgd", 0.1), pipeline_microbatches=0)
    with pytest.raises(jf.core.errors.ConfigError, match="pipeline_microbatches is 0; expected 1 or more"):
        jf.TrainingArguments(pipeline_microbatches=0)


@pytest.mark.slow
def test_memory_falls_with_the_microbatches() -> None:
    """A stage keeps its inputs, and the insides of its layers for one microbatch at a time."""
    from jaxformers.hub.abstract_model import abstract_model

    config = jf.AutoConfig.for_model(
        "llama", vocab_size=64, hidden_size=64, num_hidden_layers=16, intermediate_size=256, num_attention_heads=4
    )
    mesh = jf.make_mesh(stage=4, data=2)
    model = abstract_model(config, task="CausalLM", mesh=mesh, rules=jf.PIPELINE, scan=True)
    batch = {name: jax.ShapeDtypeStruct((32, 128), jnp.int32) for name in ("input_ids", "labels")}

    def temporary(microbatches: int) -> int:
        step = jf.make_train_step(jf.loss_for(model), jf.optimizer("sgd", 0.1), pipeline_microbatches=microbatches)
        return step.lower(*step.abstract(model, batch)).compile().memory_analysis().temp_size_in_bytes

    assert temporary(16) < 0.3 * temporary(1)


def test_a_mesh_without_stages_changes_nothing() -> None:
    """The preset means FSDP and tensor parallelism there."""
    mesh = jf.make_mesh(fsdp=4, tensor=2)
    assert plan_on(mesh, jf.PIPELINE, 4, 8, None) is None
    with use_mesh(mesh, jf.PIPELINE):
        rows = jf.shardings(tiny("even llama", True), mesh, jf.PIPELINE)
    assert [row.spec for row in rows] == [
        row.spec for row in jf.shardings(tiny("even llama", True), mesh, jf.FSDP_TENSOR)
    ]
