"""Loading a sharded checkpoint of 2 GB: seconds and peak host memory, against PyTorch's from_pretrained in one run.

Each load runs in a process of its own, in turn. Both sides map the file, so every number is read once (a sum over each
tensor) as well: "load" is the time until from_pretrained returned, and "load and read" adds the reading. Programs that
sum are compiled in between, off the clock. Peak memory is what the resident size grew beyond its size after the
imports, pages of mapped files included.

python benchmarks/load.py [--gigabytes 2] [--rounds 3] [--anyway]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import hardware, refuse_when_busy, save, table

CHILD = """
import json, os, resource, sys, threading, time
side, folder = sys.argv[1:3]
os.environ["JAX_PLATFORMS"] = "cpu"
if side == "jaxformers x8":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
if side == "torch":
    import torch, transformers
    transformers.logging.disable_progress_bar()
    from transformers import AutoModelForCausalLM
    import transformers.models.llama.modeling_llama
    load = lambda: AutoModelForCausalLM.from_pretrained(folder)
    torch.set_num_threads(2)
    def prepare(m):
        pass
    def done(m, _):
        with torch.inference_mode():
            return [float(p.sum()) for p in m.parameters()]
else:
    import jax, jaxformers as jf
    import jaxformers.models.text.llama
    auto = jf.AutoModelForCausalLM
    jax.devices()
    mesh = jf.make_mesh(fsdp=8) if side == "jaxformers x8" else None
    load = lambda: auto.from_pretrained(folder, mesh=mesh, rules=jf.FSDP)
    total = jax.jit(lambda x: x.sum())
    def kind(x):
        return x.shape, x.dtype, x.sharding
    def prepare(m):
        return {kind(x): total.lower(x).compile() for x in {kind(x): x for x in jax.tree.leaves(m)}.values()}
    def done(m, programs):
        return [float(programs[kind(x)](x)) for x in jax.tree.leaves(m)]

def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

peak, stop = 0, False
def watch():
    global peak
    while not stop:
        peak = max(peak, resident()); time.sleep(0.002)
before = resident()
thread = threading.Thread(target=watch); thread.start()
start = time.perf_counter()
model = load()
loaded = time.perf_counter() - start
programs = prepare(model)
start = time.perf_counter()
done(model, programs)
seconds = loaded + time.perf_counter() - start
stop = True; thread.join()
print(json.dumps({"load": loaded, "seconds": seconds, "peak": max(peak, resident()) - before}))
"""


def write_checkpoint(folder: Path, gigabytes: float) -> int:
    """A random Llama in float32 of about that size, in shards of 500 MB. Returns its bytes."""
    import jax

    import jaxformers as jf

    sizes = dict(hidden_size=2048, intermediate_size=5632, num_attention_heads=32, num_key_value_heads=4)
    layer = 4 * (2048 * 2048 * 2 + 2048 * 256 * 2 + 3 * 2048 * 5632)
    embed = 2 * 4 * 32000 * 2048
    layers = max(1, round((gigabytes * 1e9 - embed) / layer))
    config = jf.AutoConfig.for_model("llama", num_hidden_layers=layers, **sizes)
    model = jf.Model.init(config, jax.random.key(0), task="CausalLM")
    model.save_pretrained(folder, shard_size="500MB")
    return sum(p.stat().st_size for p in folder.glob("*.safetensors"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine; nothing is saved")
    args = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    if not args.anyway:
        refuse_when_busy()
    sides = ["torch", "jaxformers", "jaxformers x8"]
    found: dict[str, list[dict]] = {s: [] for s in sides}
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "model"
        size = write_checkpoint(folder, args.gigabytes)
        time.sleep(2)
        for n in range(args.rounds + 1):
            for side in sides[n % 3 :] + sides[: n % 3]:
                done = subprocess.run([sys.executable, "-c", CHILD, side, str(folder)], capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(done.stderr)
                if n:  # the first round brings the files into the page cache
                    found[side].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for side in sides:
        seconds = [f["seconds"] for f in found[side]]
        rows.append(
            {
                "side": side,
                "load": statistics.median(f["load"] for f in found[side]),
                "seconds": statistics.median(seconds),
                "spread": [min(seconds), max(seconds)],
                "peak_over_checkpoint": statistics.median(f["peak"] for f in found[side]) / size,
            }
        )
    print(f"{size / 1e9:.2f} GB on {hardware()}")
    print(
        table(
            ["side", "load s", "load and read s", "least to most", "peak memory / checkpoint"],
            [
                [
                    r["side"],
                    f"{r['load']:.2f}",
                    f"{r['seconds']:.2f}",
                    "{:.2f} to {:.2f}".format(*r["spread"]),
                    f"{r['peak_over_checkpoint']:.2f}",
                ]
                for r in rows
            ],
        )
    )
    if not args.anyway:
        refuse_when_busy()
        save("load", "python benchmarks/load.py", {"bytes": size, "sides": rows})


if __name__ == "__main__":
    main()
