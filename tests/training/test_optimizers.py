"""Optimisers by name: PyTorch's numbers over twenty steps, masks, layer-wise rates, both layouts alike."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers
from transformers.training_args import OptimizerNames

import jaxformers as jf
from jaxformers.core.errors import ConfigError
from jaxformers.hub.abstract import flatten
from jaxformers.hub.abstract_model import abstract_model
from jaxformers.training.masks import decays, layer_factors
from jaxformers.training.optimizer_names import SAME, UNSUPPORTED
from jaxformers.training.optimizers import optimizer_names, optimizer_options, set_learning_rate
from jaxformers.training.trainable import logical_names
from tests.training import linear

STEPS = 20
DRAW = np.random.RandomState(0)
# Under our names, so that the mask of weight decay knows them.
PARAMS = {
    "layers": {"0": {"up": {"weight": DRAW.randn(6, 5)}, "down": {"weight": DRAW.randn(5, 6)}}},
    "norm": {"scale": DRAW.randn(5)},
    "head": {"weight": DRAW.randn(7, 5), "bias": DRAW.randn(7)},
}
PARAMS = jax.tree.map(lambda x: np.asarray(x, np.float32), PARAMS)
GRADS = [jax.tree.map(lambda x: np.asarray(DRAW.randn(*x.shape), np.float32), PARAMS) for _ in range(STEPS)]
PLAIN = ("head/bias", "norm/scale")


def ours(optimizer, params=PARAMS, grads=GRADS):
    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for grad in grads:
        params, state = step(params, state, grad)
    return params, state


def theirs(kind, weight_decay: float, **options) -> dict[str, np.ndarray]:
    """{name: value} after the same steps, in two groups as transformers' Trainer makes them."""
    tensors = {"/".join(k): torch.nn.Parameter(torch.tensor(v)) for k, v in flatten(PARAMS).items()}
    groups = [
        {"params": [t for n, t in tensors.items() if n not in PLAIN], "weight_decay": weight_decay},
        {"params": [t for n, t in tensors.items() if n in PLAIN], "weight_decay": 0.0},
    ]
    optimizer = kind(groups, **options)
    for grads in GRADS:
        for path, grad in flatten(grads).items():
            tensors["/".join(path)].grad = torch.tensor(grad)
        optimizer.step()
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


TORCH = [
    ("adamw", torch.optim.AdamW, 0.1, {}, {}),
    ("adamw_torch_fused", torch.optim.AdamW, 0.0, {"betas": (0.8, 0.95), "eps": 1e-6}, {}),
    ("adam", torch.optim.Adam, 0.1, {}, {}),
    ("nadam", torch.optim.NAdam, 0.0, {}, None),
    ("sgd", torch.optim.SGD, 0.1, {"momentum": 0.9}, {}),
    ("sgd", torch.optim.SGD, 0.0, {"momentum": 0.9, "nesterov": True}, {}),
    ("rmsprop", torch.optim.RMSprop, 0.1, {"alpha": 0.9}, {}),
    ("rmsprop", torch.optim.RMSprop, 0.0, {"momentum": 0.5, "centered": True}, {}),
    ("adagrad", torch.optim.Adagrad, 0.1, {}, {}),
    ("adafactor", transformers.Adafactor, 0.1, {}, {"scale_parameter": False, "relative_step": False}),
    ("adafactor", transformers.Adafactor, 0.1, {"scale_parameter": True}, {"relative_step": False}),
    ("adafactor", transformers.Adafactor, 0.1, {"beta1": 0.9}, {"scale_parameter": False, "relative_step": False}),
]
TORCH = [case for case in TORCH if case[4] is not None]


@pytest.mark.parametrize(("name", "kind", "weight_decay", "options", "fixed"), TORCH)
def test_follows_torch(name, kind, weight_decay, options, fixed) -> None:
    params, _ = ours(jf.optimizer(name, 1e-2, weight_decay=weight_decay, **options))
    wanted = theirs(kind, weight_decay, lr=1e-2, **options, **fixed)
    for path, value in flatten(params).items():
        np.testing.assert_allclose(value, wanted["/".join(path)], atol=1e-6, rtol=1e-6)


def test_adafactor_with_its_own_step_size() -> None:
    params, _ = ours(jf.optimizer("adafactor", 1.0, relative_step=True, scale_parameter=True))
    wanted = theirs(transformers.Adafactor, 0.0)
    for path, value in flatten(params).items():
        np.testing.assert_allclose(value, wanted["/".join(path)], atol=1e-6, rtol=1e-6)


def test_a_schedule_is_followed_and_reported() -> None:
    rate = jf.schedule("linear", 1e-2, steps=STEPS, warmup_steps=3)
    params, state = ours(jf.optimizer("adamw", rate, weight_decay=0.1))
    same, _ = ours(optax.adamw(rate, weight_decay=0.1, mask=lambda t: jax.tree_util.tree_map_with_path(
        lambda p, _: not {"bias", "scale"} & {k.key for k in p}, t)))  # fmt: skip
    linear.assert_same(params, same, atol=1e-7)
    assert float(state.hyperparams["learning_rate"]) == float(rate(STEPS - 1))


def test_a_number_can_be_changed_between_steps() -> None:
    plateau = jf.schedule("reduce_lr_on_plateau", 0.5, patience=0)
    step = jf.make_train_step(linear.loss, jf.optimizer("sgd", plateau))
    state = step.init(linear.model(), jax.random.key(0))
    state, first = step(state, linear.batch())
    plateau.update(1.0)
    state = set_learning_rate(state, plateau.update(2.0))
    state, second = step(state, linear.batch())
    assert [float(m["learning_rate"]) for m in (first, second)] == pytest.approx([0.5, 0.05])
    scheduled = jf.make_train_step(linear.loss, jf.optimizer("sgd", jf.schedule("constant", 0.1)))
    with pytest.raises(ValueError, match="a schedule sets the learning rate"):
        set_learning_rate(scheduled.init(linear.model(), jax.random.key(0)), 0.1)


class TestNames:
    def test_all_of_transformers(self) -> None:
        for kind in OptimizerNames:
            if kind.value in UNSUPPORTED:
                with pytest.raises(ConfigError, match=f"{kind.value!r} cannot be had: "):
                    jf.optimizer(kind, 0.1)
            else:
                jf.optimizer(kind, 0.1)
        assert not SAME.keys() & UNSUPPORTED.keys()

    @pytest.mark.parametrize("name", [n for n in optimizer_names() if n not in SAME])
    def test_each_takes_steps(self, name: str) -> None:
        """Every optimiser of optax: its state is made, and a step with the loss at hand is finite and moves."""
        rate = 1.0 if name in ("dog", "dowg", "cocob", "prodigy", "dadapt_adamw") else 0.1
        step = jf.make_train_step(linear.loss, jf.optimizer(name, rate), trainable="head|embed")
        model, batch = linear.model(), linear.batch()
        state = step.abstract(model, batch)[0]
        new, metrics = jax.eval_shape(step.update, state, batch)
        assert jax.tree.structure(new) == jax.tree.structure(state)
        for after, before in zip(jax.tree.leaves(new), jax.tree.leaves(state), strict=True):
            assert (after.shape, after.dtype) == (before.shape, before.dtype)
        assert "learning_rate" in metrics

    def test_each_moves(self) -> None:
        """All in one program: finite, and elsewhere after three steps (ADOPT and Rprop only measure in the first)."""
        start = {"layers": {"0": {"up": {"weight": PARAMS["head"]["weight"]}}}}
        kinds = {name: jf.optimizer(name, 0.1) for name in set(optimizer_names()) - SAME.keys()}

        def value(tree) -> jax.Array:
            return jnp.sum(jnp.square(tree["layers"]["0"]["up"]["weight"]))

        def step(runs, _):
            out = {}
            for name, (params, state) in runs.items():
                loss, grads = jax.value_and_grad(value)(params)
                extra = {"value": loss, "grad": grads, "value_fn": value, "obj_fn": value}
                updates, state = kinds[name].update(grads, state, params, **extra)
                out[name] = optax.apply_updates(params, updates), state
            return out, None

        runs = {name: (start, kind.init(start)) for name, kind in kinds.items()}
        runs = jax.jit(lambda runs: jax.lax.scan(step, runs, length=3)[0])(runs)
        for name, (params, _) in runs.items():
            (after,), (before,) = linear.leaves(params), linear.leaves(start)
            assert np.isfinite(after).all() and np.abs(after - before).max() > 0, name

    def test_errors(self) -> None:
        with pytest.raises(ConfigError, match="no optimiser is called 'adamv'; there are acprop, ada"):
            jf.optimizer("adamv", 0.1)
        with pytest.raises(ConfigError, match="'adamw' has no option beta1; it has b1, b2, eps"):
            jf.optimizer("adamw", 0.1, beta1=0.9)
        with pytest.raises(ConfigError, match="'sign_sgd' has no weight decay; found weight_decay=0.1"):
            jf.optimizer("sign_sgd", 0.1, weight_decay=0.1)
        with pytest.raises(ConfigError, match="'prodigy' decays every leaf: say so with decay=None"):
            jf.optimizer("prodigy", 0.1, weight_decay=0.1)

    def test_options_are_listed(self) -> None:
        assert {"betas", "b1", "b2", "eps", "mu_dtype", "weight_decay"} <= optimizer_options("adamw_torch")
        assert "betas" not in optimizer_options("sgd") and "momentum" in optimizer_options("sgd")
        state = jf.optimizer("lion_32bit", 0.1, mu_dtype="bfloat16").init(PARAMS)
        assert state.inner_state[0].mu["head"]["weight"].dtype == jnp.bfloat16


class TestLayouts:
    """A stacked leaf trains as its layers do one by one."""

    LAYERS = [{"up": {"weight": DRAW.randn(6, 5)}, "norm": {"scale": DRAW.randn(5)}} for _ in range(3)]

    def one_by_one(self, *trees) -> dict:
        return {"layers": {f"{n}": tree for n, tree in enumerate(trees)}, "head": {"weight": trees[0]["up"]["weight"]}}

    def stacked(self, tree: dict) -> dict:
        layers = jax.tree.map(lambda *x: np.stack(x), *tree["layers"].values())
        return {"layers": {"0:3:1": {"0": layers}}, "head": tree["head"]}

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("adafactor", {"weight_decay": 0.1}),
            ("muon", {"weight_decay": 0.1, "consistent_rms": 0.2}),
            ("lamb", {"weight_decay": 0.1}),
            ("adamw", {"weight_decay": 0.1, "layer_decay": 0.5}),
        ],
    )
    def test_alike(self, name: str, options: dict) -> None:
        params = jax.tree.map(np.float32, self.one_by_one(*self.LAYERS))
        grads = [jax.tree.map(lambda p, n=n: np.sin(p * 50 + n) * (p > n - 1), params) for n in range(2)]
        optimizer = jf.optimizer(name, 1e-2, **options)
        one, _ = ours(optimizer, params, grads)
        all_at_once, _ = ours(optimizer, self.stacked(params), [self.stacked(g) for g in grads])
        linear.assert_same(self.stacked(one), all_at_once, atol=2e-6)

    def test_muon_is_for_hidden_matrices(self) -> None:
        params = linear.model(True).params
        state = jf.optimizer("muon", 1e-2).init(params).inner_state
        parts = {group: part.inner_states for group, part in state.items()}
        held = {
            kind: {"/".join(p) for part in parts.values() for p in flatten(part[kind].inner_state[0].mu) if p}
            for kind in ("adam",)
        }
        assert {"backbone/embed/embedding", "head/weight", "backbone/norm/scale"} <= held["adam"]
        assert "backbone/layers/0:2:1/0/mlp/up_proj/weight" not in {
            "/".join(p) for p, x in flatten(parts["2"]["adam"].inner_state[0].mu).items() if hasattr(x, "shape")
        }

    def test_muon_moves_along_orthogonal_matrices(self) -> None:
        """Whatever the gradient's scale, an update has singular values near 1, for [out, in] scaled by out / in."""
        params, _ = ours(jf.optimizer("muon", 1.0), grads=[jax.tree.map(lambda g: g * 1e-3, GRADS[0])])
        move = PARAMS["layers"]["0"]["up"]["weight"] - params["layers"]["0"]["up"]["weight"]  # [out 6, in 5]
        values = np.linalg.svd(move, compute_uv=False) / np.sqrt(6 / 5)
        assert 0.6 < values.min() and values.max() < 1.3


class TestMasks:
    # transformers' patterns and class (Trainer.get_decay_parameter_names), on its own modules.
    FAMILIES = [
        ("llama", "CausalLM", transformers.LlamaForCausalLM),
        ("bert", "MaskedLM", transformers.BertForMaskedLM),
        ("t5", "Seq2SeqLM", transformers.T5ForConditionalGeneration),
        ("gpt2", "CausalLM", transformers.GPT2LMHeadModel),
        ("vit", "ImageClassification", transformers.ViTForImageClassification),
        ("swin", "ImageClassification", transformers.SwinForImageClassification),
        ("clip", None, transformers.CLIPModel),
        ("mixtral", "CausalLM", transformers.MixtralForCausalLM),
    ]

    @pytest.mark.parametrize(("family", "task", "kind"), FAMILIES, ids=[f[0] for f in FAMILIES])
    def test_decays_what_the_trainer_decays(self, family: str, task: str | None, kind) -> None:
        config = kind.config_class()
        with torch.device("meta"):
            module = kind(config)
        wanted = set(transformers.Trainer.get_decay_parameter_names(None, module))
        known = dict(module.named_parameters())
        model = abstract_model(jf.AutoConfig.for_model(family), task=task)
        keys, checked = model.blueprint.keys(), 0
        ours = sum(x.size for path, x in flatten(model.params).items() if decays(logical_names(path)[0]))
        tied = family == "gpt2" or family == "t5" or family == "bert"  # named_parameters has a tied one once
        assert tied or ours == sum(known[name].numel() for name in wanted)
        for path, leaf in flatten(model.params).items():
            names = {key for piece in keys.pieces(path, leaf.shape) for key in piece.keys} & known.keys()
            for name in names:
                assert decays(logical_names(path)[0]) == (name in wanted), name
            checked += len(names)
        assert checked > 0.8 * len(known) or family in ("vit", "swin", "mixtral")  # version 5 has renamed theirs

    def test_norms_of_resnet_and_mamba_are_not_decayed_here(self) -> None:
        assert not decays("backbone/stem/embed/norm/scale") and decays("similarity/logit_scale")


class TestLayerDecay:
    def factors(self, family: str, task: str, decay: float = 0.5, scan: bool = True, **sizes) -> dict[str, list[float]]:
        model = abstract_model(jf.AutoConfig.for_model(family, **sizes), task=task, scan=scan)
        return {"/".join(path): f for path, f in layer_factors(flatten(model.params), decay).items()}

    def test_values(self) -> None:
        found = self.factors("bert", "SequenceClassification", num_hidden_layers=3)
        assert found["backbone/layers/0:3:1/0/attn/q_proj/weight"] == [0.125, 0.25, 0.5]
        assert found["backbone/embeddings/embed/embedding"] == [0.5**4]
        assert found["head/weight"] == found["backbone/pooler/dense/weight"] == [1.0]
        one = self.factors("bert", "SequenceClassification", scan=False, num_hidden_layers=3)
        assert one["backbone/layers/1/attn/q_proj/weight"] == [0.25]

    def test_stages_go_on_from_each_other(self) -> None:
        found = self.factors("swin", "ImageClassification", depths=[1, 2], num_heads=[2, 2], embed_dim=8)
        first = next(f for n, f in found.items() if n.startswith("backbone/stages_0/layers"))
        second = [f for n, f in found.items() if n.startswith("backbone/stages_1/layers") and n.endswith("fc1/weight")]
        assert first == [0.125] and [x for f in second for x in f] == [0.25, 0.5]
        assert found["backbone/stages_0/merge/reduce/weight"] == [0.125]
        assert found["backbone/embeddings/patches/kernel"] == [0.5**4]

    def test_encoder_and_decoder_count_apart(self) -> None:
        found = self.factors("t5", "Seq2SeqLM", num_layers=2, num_decoder_layers=3)
        assert found["backbone/encoder/layers/0:2:1/0/attn/q_proj/weight"] == [0.25, 0.5]
        assert found["backbone/decoder/layers/0:3:1/0/attn/q_proj/weight"] == [0.125, 0.25, 0.5]
        assert found["backbone/shared/embedding"] == [0.5**4]
