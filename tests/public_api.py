"""A program as a user writes it: never run, checked by pyright, so that the lazy names keep their types."""

from pathlib import Path
from typing import assert_type

import jax
import numpy as np

import jaxformers as jf
from jaxformers.core.config import Config


def use(folder: Path) -> None:
    model = jf.AutoModelForCausalLM.from_pretrained(folder, mesh=None, rules=jf.FSDP)
    assert_type(model, jf.Model)
    assert_type(model.config, Config)
    assert_type(jf.AutoConfig.from_pretrained(folder), Config)
    model.save_pretrained(folder)
    embedder = jf.Embedder.from_pretrained("owner/name", max_length=128)
    assert_type(embedder.encode(["a text"], batch_size=8), np.ndarray)
    tokenizer = jf.AutoTokenizer.from_pretrained(str(folder))
    tokenizer(["a text"], padding=True)
    pictures = jf.AutoImageProcessor.from_pretrained(folder)
    pictures("cat.png", return_tensors="np")
    pictures.save_pretrained(folder)
    jf.KeyMap({"embed": jf.Part("wte", in_out=True)})
    out = jf.loss_for(model, z_loss=1e-4)(model, {}, None)
    assert_type(out, jf.LossOutput)
    step = jf.make_train_step(jf.loss_for(model), jf.optimizer("adamw", jf.schedule("linear", 1e-3, steps=10)))
    state = step.init(model, jax.random.key(0))
    assert_type(state, jf.TrainState)
    state, metrics = step(state, {})
    assert_type(metrics, dict[str, jax.Array])
    jf.make_eval_step(jf.loss_for(model))(state.model, {})
    loader = jf.DataLoader([{"x": 1}], batch_size=1, epochs=1)
    loader.restore(loader.state())
    for batch in loader:
        jf.to_device(batch, None)
    jf.metric("f1", average="macro")([1], [1])
    assert jf.metrics_for(model, tokenizer=tokenizer) is not None
    args = jf.TrainingArguments(str(folder), max_steps=1, learning_rate=1e-4)
    trainer = jf.Trainer(model, args, train_dataset=[{"input_ids": [1]}], callbacks=[jf.EarlyStoppingCallback(3)])
    assert_type(trainer.train().training_loss, float)
    predictions, labels, metrics = trainer.predict([{"input_ids": [1]}])
    assert_type(metrics, dict[str, float])
    assert_type(jf.merge_adapters(jf.load_adapter(jf.lora(model, 4, ["q_proj"], alpha=8), folder)), jf.Model)
    small = jf.quantize(model, "int4", group_size=64, skip="o_proj")
    assert_type(jf.dequantize(small), jf.Model)
    assert_type(jf.quantization_errors(model, small).worst.error, float)
    jf.AutoModel.from_pretrained(folder, quantize=jf.Rounding("fp8"))
    with jf.Checkpoints(folder, keep=2) as checkpoints:
        assert_type(checkpoints.steps(), list[int])
