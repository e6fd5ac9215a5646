"""The train step: weights of tokens, donation, frozen leaves, policies for what is not finite, and resuming."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import jaxformers as jf
from jaxformers.training.ema import evaluation_model, warmed
from jaxformers.training.scaling import LossScale
from jaxformers.training.step import NonFinite
from jaxformers.training.trainable import choose, logical_names
from tests.training import linear

KEY = jax.random.key(1)


@cache  # equal steps share a compilation
def made(optimizer=None, **options):
    return jf.make_train_step(linear.loss, optimizer or optax.sgd(0.5), **options)


ADAM = optax.adam(0.1)


def run(step, state, batches):
    seen = []
    for batch in batches:
        state, metrics = step(state, batch)
        seen.append(metrics)
    return state, seen


class TestGradients:
    def test_is_the_gradient_of_the_mean(self) -> None:
        model, batch = linear.model(), linear.batch()
        step = made()
        state, metrics = step(step.init(model, KEY), batch)

        def mean(m: jf.Model) -> jax.Array:
            return linear.loss(m, batch, None).loss

        value, grads = jax.value_and_grad(mean)(model)
        linear.assert_same(state.model, jax.tree.map(lambda p, g: p - 0.5 * g, model, grads), atol=1e-6)
        assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-6)
        assert float(metrics["grad_norm"]) == pytest.approx(float(optax.tree.norm(grads)), rel=1e-5)
        assert float(metrics["weight"]) == (batch["labels"] != -100).sum()
        assert 0 <= float(metrics["accuracy"]) <= 1 and bool(metrics["finite"])
        assert int(state.step) == 1

    @pytest.mark.parametrize("count", [2, 4])
    def test_micro_batches_of_unequal_weight_are_one_batch(self, count: int) -> None:
        model, batch = linear.model(), linear.batch()
        whole, parts = made(), made(accumulate=count)
        one, seen = whole(whole.init(model, KEY), batch)
        same, again = parts(parts.init(model, KEY), {**batch, "scale": np.float32(1)})
        weights = [(batch["labels"][i::count] != -100).sum() for i in range(count)]
        assert len(set(weights)) == count  # a mean of means would differ
        linear.assert_same(one.model, same.model, atol=1e-6)
        for name in ("loss", "grad_norm", "weight", "accuracy"):
            assert float(seen[name]) == pytest.approx(float(again[name]), rel=1e-6)

    def test_rows_must_divide(self) -> None:
        step = made(accumulate=3)
        with pytest.raises(ValueError, match="8 rows, which do not divide into accumulate=3"):
            step(step.init(linear.model(), KEY), linear.batch())

    def test_clips_as_torch(self) -> None:
        model, batch = linear.model(), linear.batch()
        step = made(max_grad_norm=0.01)
        state, metrics = step(step.init(model, KEY), batch)
        grads = jax.grad(lambda m: linear.loss(m, batch, None).loss)(model)
        tensors = [torch.zeros(g.shape, requires_grad=True) for g in linear.leaves(grads)]
        for tensor, grad in zip(tensors, linear.leaves(grads), strict=True):
            tensor.grad = torch.tensor(grad)
        norm = torch.nn.utils.clip_grad_norm_(tensors, 0.01)
        assert float(metrics["grad_norm"]) == pytest.approx(float(norm), rel=1e-5) and norm > 0.01
        moved = [before - after for before, after in zip(linear.leaves(model), linear.leaves(state.model), strict=True)]
        for change, tensor in zip(moved, tensors, strict=True):
            np.testing.assert_allclose(change, 0.5 * tensor.grad.numpy(), atol=2e-8)

    def test_nothing_that_counts_changes_nothing(self) -> None:
        batch = linear.batch()
        batch["labels"][:] = -100
        step = made(accumulate=2)
        state, metrics = step(step.init(linear.model(), KEY), batch)
        linear.assert_same(state.model, linear.model())
        assert float(metrics["loss"]) == 0 and bool(metrics["finite"])


class TestKeys:
    def test_same_key_same_run_and_resumes(self) -> None:
        batches = [{**linear.batch(seed=n), "drop": np.float32(1)} for n in range(4)]
        step = made(ADAM, accumulate=2)
        whole, losses = run(step, step.init(linear.model(), KEY), batches)
        half, _ = run(step, step.init(linear.model(), KEY), batches[:2])
        # To the host and back, as a checkpoint does.
        key = jax.random.wrap_key_data(jnp.asarray(np.asarray(jax.random.key_data(half.key))))
        kept = jax.tree.map(np.asarray, half.replace(key=None))
        again, tail = run(step, jax.tree.map(jnp.asarray, kept).replace(key=key), batches[2:])
        assert [float(m["loss"]) for m in tail] == [float(m["loss"]) for m in losses[2:]]
        linear.assert_same(whole.replace(key=None), again.replace(key=None))

    def test_steps_and_micro_batches_draw_anew(self) -> None:
        batch = {**linear.batch(rows=2), "drop": np.float32(1)}
        still = made(optax.sgd(0.0))
        _, seen = run(still, still.init(linear.model(), KEY), [batch, batch])
        assert float(seen[0]["loss"]) != float(seen[1]["loss"])
        _, other = run(still, still.init(linear.model(), jax.random.key(2)), [batch])
        assert float(seen[0]["loss"]) != float(other[0]["loss"])
        drawn = []

        def loss(model, batch, key):
            out = linear.loss(model, batch, key)
            return out.replace(metrics={"drawn": jax.random.uniform(key) * (out.weight > 0)})

        batch["labels"] = np.where(
            np.arange(5)[None] == np.arange(2)[:, None], 1, -100
        )  # a row, a micro-batch: 1 label
        for count in (1, 2):
            step = jf.make_train_step(loss, optax.sgd(0.0), accumulate=count)
            drawn.append(float(step(step.init(linear.model(), KEY), batch)[1]["drawn"]) * 2)
        key = jax.random.fold_in(KEY, 0)
        numbers = [float(jax.random.uniform(jax.random.fold_in(key, n))) for n in range(2)]
        assert drawn == pytest.approx([numbers[0], sum(numbers)])


class TestDonation:
    def test_the_state_is_updated_in_place(self) -> None:
        model, batch = linear.model(), linear.batch()
        step = made(ADAM, ema=0.9, trainable="embed|head", nan="skip")
        state = step.init(model, KEY)
        size = sum(x.nbytes for x in jax.tree.leaves(state) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key))
        compiled = step.lower(state, batch).compile()
        assert compiled.memory_analysis().alias_size_in_bytes >= size
        text = compiled.as_text()
        leaves = len(jax.tree.leaves(state))
        assert text.count("may-alias") + text.count("must-alias") == leaves
        step(state, batch)
        assert all(x.is_deleted() for x in jax.tree.leaves(state.model))
        assert float(linear.loss(model, batch, None).total) > 0  # the caller's model was copied

    def test_state_holds_no_array_twice(self) -> None:
        step = made(optax.contrib.schedule_free_sgd(0.1), ema=0.5)
        state = step.init(linear.model(), KEY)
        places = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state.replace(key=None))]
        assert len(set(places)) == len(places)


class TestCost:
    def test_is_that_of_the_step_written_by_hand(self) -> None:
        """No copy of a tree, no cast, no second gradient: the compiler counts the same work."""
        model, batch, adam = linear.model(), linear.batch(), optax.adamw(0.1)

        def by_hand(model, opt_state, batch):
            def mean(m):
                out = linear.loss(m, batch, None)
                return out.total / out.weight, out.metrics["accuracy"] / out.weight

            told, grads = jax.value_and_grad(mean, has_aux=True)(model)
            norm = optax.tree.norm(grads)
            grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, 1.0 / (norm + 1e-6)), grads)
            updates, opt_state = adam.update(grads, opt_state, model)
            return optax.apply_updates(model, updates), opt_state, told, norm

        hand = jax.jit(by_hand, donate_argnums=(0, 1)).lower(model, adam.init(model), batch).compile()
        step = made.__wrapped__(adam, max_grad_norm=1.0)
        ours = step.lower(step.init(model, KEY), batch).compile()
        counted = [c.cost_analysis() for c in (hand, ours)]
        for what in ("flops", "bytes accessed"):
            assert counted[1][what] < 1.02 * counted[0][what] + 500, what
        temporary = [c.memory_analysis().temp_size_in_bytes for c in (hand, ours)]
        assert temporary[1] < 1.02 * temporary[0] + 500
        assert ours.as_text().count(" convert(") <= hand.as_text().count(" convert(") + 2


class TestFinite:
    """A batch whose scale is NaN or infinite stands for a divergence."""

    def bad(self) -> dict:
        return {**linear.batch(), "scale": np.float32(np.nan)}

    def good(self) -> dict:
        return {**linear.batch(), "scale": np.float32(1)}

    def test_report(self) -> None:
        step = made()
        state, seen = run(step, step.init(linear.model(), KEY), [self.good(), self.bad()])
        assert bool(seen[0]["finite"]) and not bool(seen[1]["finite"])
        assert any(np.isnan(x).any() for x in linear.leaves(state.model))

    def test_skip(self) -> None:
        step = made(ADAM, nan="skip", ema=0.5)
        once, _ = run(step, step.init(linear.model(), KEY), [self.good()])
        kept = jax.tree.map(np.asarray, (once.model, once.opt_state, once.ema))
        state, seen = run(step, once, [self.bad()])
        linear.assert_same(kept, (state.model, state.opt_state, state.ema))
        assert int(state.step) == 2 and not bool(seen[0]["finite"])

    def test_raise(self) -> None:
        step = made(ADAM, nan="raise")
        state, _ = run(step, step.init(linear.model(), KEY), [self.good()])
        kept = linear.leaves(state.model)
        with pytest.raises(NonFinite, match="step 2 met a value that is not finite: loss nan") as error:
            step(state, self.bad())
        linear.assert_same(kept, linear.leaves(error.value.state.model))
        run(step, error.value.state, [self.good()])  # and it can go on

    def test_unknown_policy(self) -> None:
        with pytest.raises(ValueError, match="report, skip or raise; found 'ignore'"):
            made(nan="ignore")


class TestHalf:
    def test_bfloat16_computes_and_masters_stay(self) -> None:
        seen = {}

        def loss(model, batch, key):
            seen["logits"] = model(input_ids=batch["input_ids"]).logits.dtype
            return linear.loss(model, batch, key)

        step = jf.make_train_step(loss, ADAM, dtype="bfloat16")
        state = step.init(linear.model(), KEY)
        shapes, _ = jax.eval_shape(step.update, state, linear.batch())
        assert seen["logits"] == jnp.bfloat16
        kinds = {x.dtype for x in jax.tree.leaves((shapes.model, shapes.opt_state[0].mu, shapes.opt_state[0].nu))}
        assert kinds == {jnp.dtype("float32")} and shapes.scale is None

    def test_trained_leaves_become_masters_and_frozen_ones_stay_small(self) -> None:
        model = jax.tree.map(lambda x: x.astype(jnp.bfloat16), linear.model())
        state = made(trainable="^head").init(model, KEY)
        assert state.model.params["head"]["weight"].dtype == jnp.float32
        assert state.model.params["backbone"]["norm"]["scale"].dtype == jnp.bfloat16
        assert made(param_dtype=None).init(model, KEY).model.params["head"]["weight"].dtype == jnp.bfloat16

    def test_float16_skips_shrinks_and_grows_back(self) -> None:
        batch = {**linear.batch(), "scale": np.float32(1)}
        step = made.__wrapped__(ADAM, dtype="float16", scale=LossScale.start(2.0**24, interval=2))
        state = step.init(linear.model(), KEY)
        scales, applied = [], []
        for _ in range(14):
            before = linear.leaves(state.model)
            state, metrics = step(state, batch)
            scales.append(float(metrics["loss_scale"]))
            applied.append(any((a != b).any() for a, b in zip(before, linear.leaves(state.model), strict=True)))
            assert applied[-1] == bool(metrics["finite"])
        assert not applied[0] and scales[1] == scales[0] / 2  # an overflow: nothing moved, half the scale
        first = applied.index(True)
        assert scales[first : first + 3] == [scales[first], scales[first], scales[first] * 2]  # two good ones: twice
        assert int(state.step) == 14

    def test_float16_follows_float32(self) -> None:
        batch = linear.batch()
        plain, half = made(), made(dtype="float16")
        a, one = plain(plain.init(linear.model(), KEY), batch)
        b, two = half(half.init(linear.model(), KEY), batch)
        assert float(one["grad_norm"]) == pytest.approx(float(two["grad_norm"]), rel=2e-3)
        linear.assert_same(a.model, b.model, atol=1e-3)

    def test_an_overflow_is_no_error_until_the_scale_is_spent(self) -> None:
        batch = {**linear.batch(), "scale": np.float32(1)}
        step = made.__wrapped__(dtype="float16", nan="raise", scale=LossScale.start(2.0**30))
        state, metrics = step(step.init(linear.model(), KEY), batch)
        assert not bool(metrics["finite"])
        with pytest.raises(NonFinite):
            step(state, {**batch, "scale": np.float32(np.inf)})


class TestTrainable:
    def test_frozen_leaves_have_no_gradient_and_no_state(self) -> None:
        model = linear.model()
        step = made(optax.adamw(0.1, weight_decay=0.5), trainable=("^head/", "embed"))
        state = step.init(model, KEY)
        assert len(jax.tree.leaves(state.opt_state[0].mu)) == 2
        state, _ = step(state, linear.batch())
        for name, before, after in zip(
            jax.tree_util.tree_leaves_with_path(model), linear.leaves(model), linear.leaves(state.model), strict=True
        ):
            chosen = "head" in jax.tree_util.keystr(name[0]) or "embed" in jax.tree_util.keystr(name[0])
            assert (before != after).any() == chosen

    def test_predicates_and_logical_names(self) -> None:
        for scan in (False, True):
            chosen = choose(linear.model(scan), lambda name: name.startswith("backbone/layers/"))
            names = [name for path in chosen for name in logical_names(path)]
            assert len(names) == 2 * 9 and "backbone/layers/1/attn/q_proj/weight" in names

    def test_a_pattern_that_matches_nothing_is_refused(self) -> None:
        with pytest.raises(ValueError, match="'q_porj' matches no parameter; there are backbone/"):
            made(trainable=("head", "q_porj")).init(linear.model(), KEY)

    def test_part_of_a_stack_is_refused(self) -> None:
        with pytest.raises(ValueError, match="layers/1/.*is to be trained.*layers/0/.*is not.*restack"):
            made(trainable="layers/1/").init(linear.model(scan=True), KEY)
        made(trainable="layers/1/").init(linear.model(), KEY)

    def test_what_no_gradient_reaches_is_left_alone(self) -> None:
        """Weight decay would move running statistics and fixed tables."""
        from jaxformers.hub.abstract_model import abstract_model

        config = jf.AutoConfig.for_model("resnet", depths=[1, 1], hidden_sizes=[8, 8], embedding_size=8)
        model = abstract_model(config, task="ImageClassification")
        names = {"/".join(path) for path in choose(model, None)}
        assert not any("running" in name for name in names) and any(name.endswith("norm/scale") for name in names)
        config = jf.AutoConfig.for_model("whisper", encoder_layers=1, decoder_layers=1)
        names = {"/".join(path) for path in choose(abstract_model(config, task="SpeechSeq2Seq"), None)}
        assert "backbone/encoder/stem/positions/table" not in names
        assert "backbone/decoder/stem/positions/embedding" in names


class TestAverages:
    def test_values(self) -> None:
        batches = [linear.batch(seed=n) for n in range(3)]
        step = made(ema=0.9)
        state = step.init(linear.model(), KEY)
        average = linear.leaves(linear.model())
        for batch in batches:
            state, _ = step(state, batch)
            average = [0.9 * a + 0.1 * x for a, x in zip(average, linear.leaves(state.model), strict=True)]
        linear.assert_same(evaluation_model(state), average, atol=1e-6)
        assert evaluation_model(state).module == state.model.module

    def test_warmed(self) -> None:
        assert float(warmed(0.99)(0)) == pytest.approx(0.1) and float(warmed(0.99)(10_000)) == pytest.approx(0.99)

    def test_schedule_free(self) -> None:
        step = made(jf.optimizer("schedule_free_sgd", 0.5))
        state, _ = run(step, step.init(linear.model(), KEY), [linear.batch(seed=n) for n in range(3)])
        free = state.opt_state.inner_state
        z, y = free.z["head"]["weight"], state.model.params["head"]["weight"]
        found = evaluation_model(state).params["head"]["weight"]
        np.testing.assert_allclose(found, (y - 0.1 * z) / 0.9, atol=1e-6)
        assert float(jnp.abs(found - y).max()) > 1e-5


class TestEvaluation:
    def test_loss_and_outputs(self) -> None:
        batch = {**linear.batch(), "drop": np.float32(1)}
        model = linear.model()
        evaluate = jf.make_eval_step(linear.loss, lambda model, batch: model.params["head"]["weight"].sum())
        sums, total = evaluate(model, batch)
        assert float(sums.loss) == pytest.approx(float(linear.loss(model, batch, None).loss), rel=1e-6)
        assert float(total) == pytest.approx(float(model.params["head"]["weight"].sum()), rel=1e-5)
        both = jf.make_eval_step(linear.loss)(model, batch) + sums
        assert float(both.loss) == pytest.approx(float(sums.loss))

    def test_needs_something(self) -> None:
        with pytest.raises(ValueError, match="a loss, outputs or both"):
            jf.make_eval_step(None)
