"""Compile and start-up times: a 32-layer Llama scanned and per layer, and the first result with and without the cache.

python benchmarks/compile.py [--anyway]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

from measure import refuse_when_busy, save, table

COMPILE = """
import json, os, sys, time
os.environ["JAX_PLATFORMS"] = "cpu"
import jax, jax.numpy as jnp, jaxformers as jf
what, scan = sys.argv[1], sys.argv[2] == "scanned"
sizes = dict(hidden_size=256, intermediate_size=688, num_hidden_layers=32, num_attention_heads=8, vocab_size=1024)
config = jf.AutoConfig.for_model("llama", **sizes)
model = jf.Model.init(config, jax.random.key(0), task="CausalLM", scan=scan)
ids = jnp.ones((2, 128), jnp.int32)
f = lambda m, ids: m(input_ids=ids).logits.sum()
f = jax.jit(jax.grad(f) if what == "gradient" else f)
start = time.perf_counter(); lowered = f.lower(model, ids); middle = time.perf_counter()
lowered.compile(); end = time.perf_counter()
print(json.dumps({"lower": middle - start, "compile": end - middle, "lines": lowered.as_text().count(chr(10))}))
"""

FIRST = """
import json, os, sys, time
start = time.perf_counter()
os.environ["JAX_PLATFORMS"] = "cpu"
folder, cache, layout = sys.argv[1:4]
if cache != "none":
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
import numpy as np, jaxformers as jf
model_class = jf.AutoModelForCausalLM
imported = time.perf_counter()
model = model_class.from_pretrained(folder, scan=layout == "scanned")
loaded = time.perf_counter()
model(input_ids=np.ones((1, 64), int)).logits.block_until_ready()
end = time.perf_counter()
print(json.dumps({"import": imported - start, "load": loaded - imported, "first": end - loaded, "total": end - start}))
"""

LLAMA_135M = dict(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, tie_word_embeddings=True,
)  # fmt: skip


def child(code: str, *args: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {k: statistics.median(r[k] for r in runs) for k in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine; nothing is saved")
    args = parser.parse_args()
    if not args.anyway:
        refuse_when_busy()
    layouts = ["scanned", "per layer"]
    compiles = []
    for what in ("forward", "gradient"):
        runs: dict[str, list] = {layout: [] for layout in layouts}
        for _ in range(args.rounds):
            for layout in layouts:
                runs[layout].append(child(COMPILE, what, layout))
        compiles += [{"program": what, "layout": layout, **medians(runs[layout])} for layout in layouts]
    import jax

    import jaxformers as jf

    starts = []
    with tempfile.TemporaryDirectory() as home:
        config = jf.AutoConfig.for_model("llama", **LLAMA_135M)
        jf.Model.init(config, jax.random.key(0), task="CausalLM").save_pretrained(f"{home}/model")
        for layout in layouts:
            for kind in ("none", "cold", "warm"):
                rounds = []
                for n in range(args.rounds):
                    cache = f"{home}/{layout}-{n}" if kind != "none" else "none"
                    rounds.append(child(FIRST, f"{home}/model", cache, layout))
                starts.append({"layout": layout, "cache": kind, **medians(rounds)})
    print("32-layer llama, width 256")
    print(
        table(
            ["program", "layout", "lower s", "compile s", "lines"],
            [
                [r["program"], r["layout"], f"{r['lower']:.2f}", f"{r['compile']:.2f}", f"{r['lines']:.0f}"]
                for r in compiles
            ],
        )
    )
    print("\nllama 135M: seconds from the start of Python to the first result")
    names = ("import", "load", "first", "total")
    print(
        table(["layout", "cache", *names], [[r["layout"], r["cache"], *(f"{r[k]:.2f}" for k in names)] for r in starts])
    )
    if not args.anyway:
        refuse_when_busy()
        save("compile", "python benchmarks/compile.py", {"compile": compiles, "start": starts})


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    main()
