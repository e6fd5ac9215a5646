"""Saving a training run: how long a step waits for a checkpoint, what writing costs beside it, and reading it back.

A llama with AdamW (three arrays for every parameter) is trained on and saved: in the background, and while training
waits, beside torch.save and torch.load of as many bytes. "stall" is how long `save` keeps the loop from its next step,
"beside" how much longer the steps then take in all while the files are written.

python benchmarks/checkpoints.py [--layers 8] [--steps 6] [--rounds 3] [--anyway]
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import hardware, refuse_when_busy, save, table


def run_of(layers: int) -> tuple[Any, Any, Any]:
    """A step, its state and a batch: a llama of 512 wide, about 60 million parameters at eight layers."""
    import jax
    import numpy as np
    import optax

    import jaxformers as jf

    sizes = dict(hidden_size=512, intermediate_size=1408, num_attention_heads=8, vocab_size=32000)
    config = jf.AutoConfig.for_model("llama", num_hidden_layers=layers, **sizes)
    model = jf.Model.init(config, jax.random.key(0), task="CausalLM", scan=True)
    ids = np.random.RandomState(0).randint(0, 32000, (2, 128)).astype(np.int32)
    step = jf.make_train_step(jf.loss_for(model), optax.adamw(1e-4))
    return step, step.init(model, jax.random.key(0)), {"input_ids": ids, "labels": ids}


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Side:
    """One way of saving, on the same run."""

    def __init__(self, step: Any, state: Any, batch: Any, home: Path) -> None:
        self.step, self.state, self.batch, self.home = step, state, batch, home
        self.train(2)

    def train(self, steps: int) -> None:
        import jax

        for _ in range(steps):
            self.state, metrics = self.step(self.state, self.batch)
        jax.block_until_ready((self.state, metrics))

    def ours(self, asynchronous: bool, steps: int) -> dict[str, float]:
        """Save once and train on; then read it back."""
        import jax

        from jaxformers.training.checkpoints import Checkpoints

        plain = seconds(lambda: self.train(steps))
        checkpoints = Checkpoints(self.home / "ours", asynchronous=asynchronous)
        start = time.perf_counter()
        stall = seconds(lambda: checkpoints.save(self.state, {}))
        with_save = seconds(lambda: self.train(steps))
        checkpoints.wait()
        whole = time.perf_counter() - start
        like = jax.eval_shape(lambda state: state, self.state)
        read = seconds(lambda: jax.block_until_ready(checkpoints.restore(like)[0]))
        checkpoints.close()
        shutil.rmtree(self.home / "ours")
        return {"stall": stall, "beside": with_save - plain, "whole": whole, "read": read, "step": plain / steps}

    def torch(self) -> dict[str, float]:
        """torch.save of the same arrays; a loop waits for it."""
        import jax
        import numpy as np
        import torch

        leaves = [x for x in jax.tree.leaves(self.state) if x.dtype == np.float32]
        tensors = [torch.from_numpy(np.array(x)) for x in leaves]
        path = self.home / "torch.pt"
        stall = seconds(lambda: torch.save(tensors, path))
        read = seconds(lambda: [x.clone() for x in torch.load(path, mmap=False)])
        path.unlink()
        return {"stall": stall, "beside": 0.0, "whole": stall, "read": read}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="steps of training while files are written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine; nothing is saved")
    args = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    if not args.anyway:
        refuse_when_busy()
    import jax

    found: dict[str, list[dict[str, float]]] = {"background": [], "waiting": [], "torch.save": []}
    with tempfile.TemporaryDirectory() as home:
        side = Side(*run_of(args.layers), Path(home))
        size = sum(x.nbytes for x in jax.tree.leaves(side.state) if x.ndim)
        for n in range(args.rounds + 1):
            done = [side.ours(True, args.steps), side.ours(False, args.steps), side.torch()]
            if n:  # the first round compiles
                for name, one in zip(found, done, strict=True):
                    found[name].append(one)
    rows = {
        name: {key: statistics.median(one[key] for one in times) for key in times[0]} for name, times in found.items()
    }
    found_here = {"bytes": size, "sides": rows}
    print(f"{hardware()}\n\n{report(found_here)}")
    if not args.anyway:
        refuse_when_busy()
        save("checkpoints", "python benchmarks/checkpoints.py", found_here)


def report(found: dict) -> str:
    """What was found as a table."""
    heads = ["stall", "beside", "whole", "read", "step"]
    cells = [[name, *(f"{r[h]:.2f}" if h in r else "-" for h in heads)] for name, r in found["sides"].items()]
    return table([f"{found['bytes'] / 1e9:.2f} GB", *(f"{h} s" for h in heads)], cells)


if __name__ == "__main__":
    main()
