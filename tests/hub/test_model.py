"""Model: a pytree, a pure function, a checkpoint; and one clear error for each kind of bad input."""

import json
import logging
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

import jaxformers as jf
from jaxformers.core.errors import CheckpointError, ConfigError, UnknownModelType, UnknownOption
from tests.hub import tiny

IDS = np.random.RandomState(0).randint(3, 96, (2, 9))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    tiny.llama(path, num_hidden_layers=2)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A checkpoint to spoil."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def change_tensors(path: Path, change) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def change_config(path: Path, **changes) -> None:
    raw = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**raw, **changes}))


class TestPytree:
    def test_leaves_are_the_parameters(self, folder: Path) -> None:
        model = jf.AutoModelForCausalLM.from_pretrained(folder)
        assert sum(x.size for x in jax.tree.leaves(model)) == sum(
            p.numel() for p in transformers.LlamaForCausalLM.from_pretrained(folder).parameters()
        )
        paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_flatten_with_path(model)[0]]
        assert ".params['backbone']['layers']['0']['attn']['q_proj']['weight']" in paths

    def test_grad_returns_a_model_and_optax_takes_it(self, folder: Path) -> None:
        model = jf.AutoModelForCausalLM.from_pretrained(folder)

        def loss(m: jf.Model) -> jax.Array:
            logits = m(input_ids=IDS).logits[:, :-1]
            return optax.softmax_cross_entropy_with_integer_labels(logits, IDS[:, 1:]).mean()

        optimizer = optax.adamw(1e-2)
        state = optimizer.init(model)

        @jax.jit
        def step(model, state):
            value, grads = jax.value_and_grad(loss)(model)
            updates, state = optimizer.update(grads, state, model)
            return optax.apply_updates(model, updates), state, value

        values = []
        for _ in range(5):
            model, state, value = step(model, state)
            values.append(float(value))
        assert isinstance(model, jf.Model) and values[-1] < values[0]

    def test_equal_models_share_a_compilation(self, folder: Path) -> None:
        from jaxformers.hub.model import _forward

        first, second = (jf.AutoModelForCausalLM.from_pretrained(folder) for _ in range(2))
        first(input_ids=IDS)
        before = _forward._cache_size()
        second(input_ids=IDS)
        second.replace(params=jax.tree.map(lambda x: x * 2, second.params))(input_ids=IDS)
        assert _forward._cache_size() == before

    def test_the_plain_function_gives_the_same(self, folder: Path) -> None:
        model = jf.AutoModelForCausalLM.from_pretrained(folder)
        batch = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
        pure = model.module.apply({"params": model.params}, **batch)
        np.testing.assert_allclose(pure.logits, model(**batch).logits, atol=1e-6)
        batched = jax.vmap(lambda ids: model.module.apply({"params": model.params}, ids[None]).logits[0])(IDS)
        np.testing.assert_allclose(batched, pure.logits, atol=1e-5)

    def test_an_ensemble_is_a_vmap(self, folder: Path) -> None:
        model = jf.AutoModelForCausalLM.from_pretrained(folder)
        stacked = jax.tree.map(lambda x: jnp.stack([x, x * 1.1]), model)
        out = jax.vmap(lambda m: m(input_ids=IDS).logits)(stacked)
        assert out.shape == (2, *IDS.shape, 96)
        np.testing.assert_allclose(out[0], model(input_ids=IDS).logits, atol=1e-5)

    def test_outputs_are_read_by_name_and_place(self, folder: Path) -> None:
        out = jf.AutoModelForCausalLM.from_pretrained(folder)(input_ids=IDS, output_hidden_states=True)
        assert out["logits"] is out.logits is out[0]
        assert out.keys() == ["logits", "hidden_states"] and "attentions" not in out
        assert len(out.to_tuple()) == 2


class TestLayouts:
    def test_restack_is_a_rename(self, folder: Path) -> None:
        model = jf.AutoModelForCausalLM.from_pretrained(folder)
        stacked = jf.restack(model, scan=True)
        loaded = jf.AutoModelForCausalLM.from_pretrained(folder, scan=True)
        assert jax.tree.structure(stacked) == jax.tree.structure(loaded)
        jax.tree.map(np.testing.assert_array_equal, stacked, loaded)
        jax.tree.map(np.testing.assert_array_equal, jf.restack(stacked, scan=False), model)
        assert "0:2:1" in stacked.params["backbone"]["layers"]

    @pytest.mark.parametrize("remat", ["full", "dots_saveable"])
    def test_remat_changes_no_gradient(self, remat: str, folder: Path) -> None:
        def grads(**kwargs):
            model = jf.AutoModelForCausalLM.from_pretrained(folder, scan=True, **kwargs)
            return jax.grad(lambda m: m(input_ids=IDS).logits.sum())(model)

        for a, b in zip(jax.tree.leaves(grads()), jax.tree.leaves(grads(remat=remat)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)

    def test_unknown_remat_is_refused(self, folder: Path) -> None:
        with pytest.raises(ValueError, match="remat policy 'some' is unknown"):
            jf.AutoModelForCausalLM.from_pretrained(folder, remat="some")


class TestDtypes:
    def test_parameters_keep_the_checkpoints_dtype(self, tmp_path: Path) -> None:
        tiny.llama(tmp_path, torch.bfloat16, num_hidden_layers=2)
        assert {x.dtype for x in jax.tree.leaves(jf.AutoModel.from_pretrained(tmp_path))} == {jnp.dtype("bfloat16")}
        model = jf.AutoModel.from_pretrained(tmp_path, dtype="float32")
        assert {x.dtype for x in jax.tree.leaves(model)} == {jnp.dtype("float32")}
        model.save_pretrained(tmp_path / "wide")
        assert json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float32"

    def test_compute_dtype_leaves_the_parameters(self, folder: Path) -> None:
        model = jf.AutoModelForCausalLM.from_pretrained(folder, compute_dtype="bfloat16")
        assert model(input_ids=IDS).logits.dtype == jnp.bfloat16
        assert {x.dtype for x in jax.tree.leaves(model)} == {jnp.dtype("float32")}
        grads = jax.grad(lambda m: m(input_ids=IDS).logits.astype(jnp.float32).sum())(model)
        assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype("float32")}

    def test_float32_asks_for_full_precision(self, folder: Path) -> None:
        """No silent TF32: every product in the program says HIGHEST, unless the user chose otherwise."""
        model = jf.AutoModelForCausalLM.from_pretrained(folder)
        lowered = jax.jit(lambda m: m(input_ids=IDS).logits).lower(model).as_text()
        dots = [line for line in lowered.splitlines() if "stablehlo.dot_general" in line]
        assert dots and all("precision = [HIGHEST, HIGHEST]" in line for line in dots)
        with jax.default_matmul_precision("tensorfloat32"):
            chosen = jax.jit(lambda m: m(input_ids=IDS).logits).lower(model).as_text()
        assert "HIGHEST" not in chosen


class TestHeads:
    def test_a_lacking_head_needs_a_key_and_says_so(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        with pytest.raises(CheckpointError, match=r"head/weight; pass key=jax.random.key\(0\)"):
            jf.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
        with caplog.at_level(logging.WARNING, "jaxformers"):
            model = jf.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, key=jax.random.key(0))
        assert [r.getMessage() for r in caplog.records] == ["newly initialised, train them before use: head/weight"]
        assert model(input_ids=IDS).logits.shape == (2, 3)
        assert 0.01 < float(model.params["head"]["weight"].std()) < 0.03

    def test_base_and_head_checkpoints_load_into_each_other(self, folder: Path, tmp_path: Path) -> None:
        base = jf.AutoModel.from_pretrained(folder)
        causal = jf.AutoModelForCausalLM.from_pretrained(folder)
        jax.tree.map(np.testing.assert_array_equal, base.params, causal.params["backbone"])
        base.save_pretrained(tmp_path / "base")
        again = jf.AutoModelForCausalLM.from_pretrained(tmp_path / "base", key=jax.random.key(0))
        jax.tree.map(np.testing.assert_array_equal, again.params["backbone"], base.params)
        reference = transformers.AutoModel.from_pretrained(tmp_path / "base")(torch.tensor(IDS)).last_hidden_state
        np.testing.assert_allclose(base(input_ids=IDS).last_hidden_state, reference.detach(), atol=1e-5)

    def test_from_pretrained_of_model_follows_the_architecture(self, folder: Path) -> None:
        assert jf.Model.from_pretrained(folder).task == "CausalLM"

    def test_a_head_the_type_lacks_names_those_it_has(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match="llama has no AutoModelForMaskedLM; its heads are: AutoModelForCausalLM"):
            jf.AutoModelForMaskedLM.from_pretrained(folder)


class TestInit:
    def test_distribution_is_transformers(self) -> None:
        config = jf.AutoConfig.for_model("llama", **{**tiny.SIZES, "hidden_size": 256, "initializer_range": 0.05})
        params = jf.Model.init(config, jax.random.key(0), task="CausalLM").params
        kernel = params["backbone"]["layers"]["0"]["attn"]["q_proj"]["weight"]
        assert abs(float(kernel.std()) - 0.05) < 1e-3 and abs(float(kernel.mean())) < 1e-3
        assert (params["backbone"]["norm"]["scale"] == 1).all()

    def test_other_keys_give_other_values_and_layers_differ(self) -> None:
        config = jf.AutoConfig.for_model("llama", **tiny.SIZES)
        a, b = (jf.Model.init(config, jax.random.key(n), scan=True).params for n in (0, 1))
        kernel = a["layers"]["0:4:1"]["0"]["attn"]["q_proj"]["weight"]
        assert not np.array_equal(kernel, b["layers"]["0:4:1"]["0"]["attn"]["q_proj"]["weight"])
        assert not np.array_equal(kernel[0], kernel[1])


class TestBadInput:
    def test_unknown_model_type_names_the_nearest(self, copy: Path) -> None:
        change_config(copy, model_type="lama")
        with pytest.raises(UnknownModelType, match="'lama' is not supported; did you mean llama"):
            jf.AutoModel.from_pretrained(copy)

    def test_a_behavioural_key_that_nothing_reads(self, copy: Path) -> None:
        change_config(copy, sliding_window=8)
        with pytest.raises(UnknownOption, match="'sliding_window' is 8, but llama does not implement it"):
            jf.AutoModel.from_pretrained(copy)

    def test_other_unknown_keys_are_carried(self, copy: Path, tmp_path: Path) -> None:
        change_config(copy, my_note={"a": [1, 2]})
        jf.AutoModelForCausalLM.from_pretrained(copy).save_pretrained(tmp_path / "out")
        assert json.loads((tmp_path / "out" / "config.json").read_text())["my_note"] == {"a": [1, 2]}

    def test_no_config(self, copy: Path) -> None:
        (copy / "config.json").unlink()
        with pytest.raises(ConfigError, match="config.json does not exist"):
            jf.AutoModel.from_pretrained(copy)

    @pytest.mark.parametrize("text", ["{", "[1]", '"llama"', "\xff"])
    def test_a_broken_config(self, text: str, copy: Path) -> None:
        (copy / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(ConfigError, match=r"config\.json"):
            jf.AutoModel.from_pretrained(copy)

    def test_wrong_types_in_a_config(self, copy: Path) -> None:
        change_config(copy, hidden_size="64")
        with pytest.raises(ConfigError, match="hidden_size is '64'.*expected int"):
            jf.AutoModel.from_pretrained(copy)

    def test_missing_tensor(self, copy: Path) -> None:
        change_tensors(copy, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
        with pytest.raises(CheckpointError, match="needs model.layers.1.mlp.up_proj.weight, not in the checkpoint"):
            jf.AutoModelForCausalLM.from_pretrained(copy, key=jax.random.key(0))

    def test_extra_tensor(self, copy: Path) -> None:
        change_config(copy, num_hidden_layers=1)
        with pytest.raises(CheckpointError, match="holds 9 tensors that the model does not read.*model.layers.1"):
            jf.AutoModelForCausalLM.from_pretrained(copy)

    def test_misshapen_tensor(self, copy: Path) -> None:
        change_tensors(copy, lambda t: t.update({"model.norm.weight": np.ones(65, np.float32)}))
        with pytest.raises(
            CheckpointError, match=r"model.norm.weight has shape \(65,\); backbone/norm/scale needs \(64,\)"
        ):
            jf.AutoModelForCausalLM.from_pretrained(copy)

    def test_truncated_file(self, copy: Path) -> None:
        file = copy / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match="model.safetensors"):
            jf.AutoModelForCausalLM.from_pretrained(copy)

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError):
            jf.AutoModel.from_pretrained(tmp_path / "no such folder")

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({}, "exactly one of input_ids and inputs_embeds"),
            ({"input_ids": IDS[0]}, r"shape \(9,\); expected \[B,T\]"),
            ({"input_ids": IDS.astype(np.float32)}, "dtype float32; expected integers"),
            ({"input_ids": IDS, "attention_mask": np.ones((2, 9, 9))}, r"attention_mask has shape \(2, 9, 9\)"),
        ],
    )
    def test_bad_calls(self, inputs: dict, message: str, folder: Path) -> None:
        with pytest.raises(ValueError, match=message):
            jf.AutoModelForCausalLM.from_pretrained(folder)(**inputs)

    def test_labels_are_refused(self, folder: Path) -> None:
        with pytest.raises(TypeError, match="models return no loss"):
            jf.AutoModelForCausalLM.from_pretrained(folder)(input_ids=IDS, labels=IDS)

    def test_training_needs_a_key(self, folder: Path) -> None:
        model = jf.AutoModelForCausalLM.from_pretrained(folder, attention_dropout=0.5)
        with pytest.raises(ValueError, match="pass key="):
            model(input_ids=IDS, train=True)
        plain = model(input_ids=IDS).logits
        one, two = (model(input_ids=IDS, train=True, key=jax.random.key(n)).logits for n in (0, 1))
        assert not np.allclose(one, plain) and not np.allclose(one, two)

    def test_too_many_tokens_for_a_cache(self, folder: Path) -> None:
        model = jf.AutoModelForCausalLM.from_pretrained(folder)
        with pytest.raises(ValueError, match="9 tokens do not fit a cache of 4 slots"):
            model(input_ids=IDS, past_key_values=model.init_cache(2, 4))

    def test_an_encoder_has_no_cache(self, tiny_bert: Path) -> None:
        with pytest.raises((TypeError, ValueError), match="decode"):
            model = jf.AutoModel.from_pretrained(tiny_bert)
            model(input_ids=IDS % 9, past_key_values=model.init_cache(2, 16))


class TestSave:
    def test_sharded_save_loads_in_transformers(self, folder: Path, tmp_path: Path) -> None:
        model = jf.AutoModelForCausalLM.from_pretrained(folder)
        model.save_pretrained(tmp_path, shard_size="100KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
        again = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
        want = transformers.LlamaForCausalLM.from_pretrained(folder).state_dict()
        assert all(torch.equal(v, want[k]) for k, v in again.state_dict().items())
        loaded = jf.AutoModelForCausalLM.from_pretrained(tmp_path)
        jax.tree.map(np.testing.assert_array_equal, loaded.params, model.params)

    def test_a_full_disk_leaves_the_old_folder_whole(self, folder: Path, tmp_path: Path, monkeypatch) -> None:
        model = jf.AutoModelForCausalLM.from_pretrained(folder)
        model.save_pretrained(tmp_path / "out")
        before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}

        def full(*args, **kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("jaxformers.hub.pretrained.write_sharded", full)
        with pytest.raises(OSError, match="No space left"):
            model.replace(params=jax.tree.map(lambda x: x + 1, model.params)).save_pretrained(tmp_path / "out")
        assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
        assert [p.name for p in tmp_path.iterdir()] == ["out"]

    def test_other_files_of_the_folder_stay(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_text("mine")
        jf.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path)
        assert (tmp_path / "README.md").read_text() == "mine"


class TestFormats:
    """The same model from PyTorch's own files and from the Flax files of transformers 4."""

    @pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
    def test_pytorch_model_bin(self, legacy: bool, folder: Path, copy: Path) -> None:
        state = transformers.LlamaForCausalLM.from_pretrained(folder).state_dict()
        (copy / "model.safetensors").unlink()
        torch.save(state, copy / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
        a, b = (jf.AutoModelForCausalLM.from_pretrained(f) for f in (folder, copy))
        jax.tree.map(np.testing.assert_array_equal, a, b)

    def test_flax_model_msgpack(self, tiny_bert: Path, tmp_path: Path) -> None:
        from flax import serialization, traverse_util

        tree = {}
        for key, value in load_file(tiny_bert / "model.safetensors").items():
            *path, leaf = key.split(".")
            if leaf == "weight":
                leaf = "embedding" if path[-1].endswith("embeddings") else "scale" if value.ndim == 1 else "kernel"
            tree[(*path, leaf)] = value.T if leaf == "kernel" else value
        target = tmp_path / "flax"
        shutil.copytree(tiny_bert, target, ignore=shutil.ignore_patterns("*.safetensors"))
        (target / "flax_model.msgpack").write_bytes(serialization.to_bytes(traverse_util.unflatten_dict(tree)))
        a, b = (jf.AutoModel.from_pretrained(f) for f in (tiny_bert, target))
        jax.tree.map(np.testing.assert_array_equal, a, b)
