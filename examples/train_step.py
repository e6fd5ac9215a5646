"""Train as a pure function: a byte-level language model on the standard library's own source, in micro-batches.

python examples/train_step.py
"""

import inspect
import json
import textwrap

import jax
import numpy as np

import jaxformers as jf

STEPS, ROWS, LENGTH = 60, 16, 64
CONFIG = jf.AutoConfig.for_model(
    "llama",
    vocab_size=128,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)


def rows(seed: int) -> dict[str, np.ndarray]:
    """A batch of random pieces of two modules' source, as bytes."""
    text = np.frombuffer((inspect.getsource(json) + inspect.getsource(textwrap)).encode(), np.uint8) % 128
    starts = np.random.RandomState(seed).randint(0, len(text) - LENGTH, ROWS)
    ids = np.stack([text[start : start + LENGTH] for start in starts]).astype(np.int32)
    return {"input_ids": ids, "labels": ids}


def main() -> tuple[float, float]:
    """Return the loss of the first and of the last step."""
    model = jf.Model.init(CONFIG, jax.random.key(0), task="CausalLM", scan=True)
    rate = jf.schedule("cosine", 1e-2, steps=STEPS, warmup_steps=5)
    step = jf.make_train_step(
        jf.loss_for(model),
        jf.optimizer("adamw", rate, weight_decay=0.01),
        accumulate=2,
        max_grad_norm=1.0,
        ema=0.9,
    )
    state = step.init(model, jax.random.key(1))
    losses = []
    for number in range(STEPS):
        state, metrics = step(state, rows(number))  # the state is donated: go on with the one returned
        losses.append(metrics["loss"])  # stays on the device; nothing waits for it
        if number % 20 == 0:
            print(f"step {number}: loss {metrics['loss']:.3f}, learning rate {metrics['learning_rate']:.4f}")
    evaluate = jf.make_eval_step(jf.loss_for(model))
    held_out = evaluate(state.model, rows(STEPS))
    print(f"held-out loss {held_out.loss:.3f} over {held_out.weight:.0f} bytes")
    return float(losses[0]), float(held_out.loss)


if __name__ == "__main__":
    main()
