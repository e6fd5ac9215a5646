"""Forward passes in bfloat16 on one GPU against PyTorch (SDPA, eager and compiled), loading, and compile times.

python benchmarks/gpu/bench.py [--output results/gpu.json] [--tiny]    (--tiny: small models on the CPU, for a try)
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import torch
import transformers
from measure import hardware, side_by_side, summary, table, versions

import jaxformers as jf

LLAMA_1B = dict(
    vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
    num_key_value_heads=8, head_dim=64, max_position_embeddings=8192, tie_word_embeddings=True,
)  # fmt: skip
TINY = dict(
    hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    head_dim=16,
)  # fmt: skip


def ids(batch: int, length: int) -> dict[str, np.ndarray]:
    return {"input_ids": np.random.RandomState(0).randint(5, 30000, (batch, length))}


def pixels(batch: int) -> dict[str, np.ndarray]:
    return {"pixel_values": np.random.RandomState(0).randn(batch, 3, 224, 224).astype(np.float32)}


CASES = {
    "bert-base, 32 x 128": ("BertModel", {}, lambda: ids(32, 128)),
    "bert-base, 64 x 512": ("BertModel", {}, lambda: ids(64, 512)),
    "vit-b/16, batch 64": ("ViTModel", {}, lambda: pixels(64)),
    "llama 1B, prefill 4 x 2048": ("LlamaForCausalLM", LLAMA_1B, lambda: ids(4, 2048)),
}


def one_case(cls: str, options: dict, inputs: dict[str, np.ndarray], device: str) -> dict:
    """Load time to the device, compile time, and milliseconds of a forward on each side."""
    kind = getattr(transformers, cls)
    theirs = kind(kind.config_class(**options)).eval().to(torch.bfloat16)
    auto = jf.AutoModelForCausalLM if "CausalLM" in cls else jf.AutoModel
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        start = time.perf_counter()
        ours = jax.block_until_ready(auto.from_pretrained(folder))
        loaded = time.perf_counter() - start
    theirs = theirs.to(device)
    field = "logits" if "CausalLM" in cls else "last_hidden_state"
    tensors = {k: torch.tensor(v, device=device) for k, v in inputs.items()}
    tensors = {k: v.bfloat16() if v.is_floating_point() else v for k, v in tensors.items()}
    arrays = jax.device_put({k: v.astype("bfloat16") if v.dtype == np.float32 else v for k, v in inputs.items()})
    start = time.perf_counter()
    got = np.asarray(ours(**arrays)[field], np.float32)
    first = time.perf_counter() - start
    compiled = torch.compile(theirs)

    def run_torch(model):
        with torch.inference_mode():
            out = model(**tensors)[field]
        if device == "cuda":
            torch.cuda.synchronize()
        return out

    want = run_torch(theirs).float().cpu().numpy()
    cases = {
        "torch": lambda: run_torch(theirs),
        "torch again": lambda: run_torch(theirs),
        "torch.compile": lambda: run_torch(compiled),
        "jaxformers": lambda: ours(**arrays)[field].block_until_ready(),
        "jaxformers again": lambda: ours(**arrays)[field].block_until_ready(),
    }
    return {
        "load_s": loaded,
        "first_call_s": first,
        "difference": float(np.abs(got - want).max() / np.abs(want).max()),
        "times": summary(side_by_side(cases, rounds=7, least=0.2), "torch"),
    }


def bandwidth_and_flops() -> dict[str, float]:
    """What this device reaches in a plain matrix product (TFLOP/s) and a copy (GB/s)."""
    n = 8192 if jax.default_backend() != "cpu" else 512
    x = jax.random.normal(jax.random.key(0), (n, n), "bfloat16")
    product = jax.jit(lambda x: x @ x)
    copy = jax.jit(lambda x: x + 1)

    def seconds(f) -> float:
        f(x).block_until_ready()
        times = []
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(20):
                y = f(x)
            y.block_until_ready()
            times.append((time.perf_counter() - start) / 20)
        return statistics.median(times)

    return {"matmul_tflops": 2 * n**3 / seconds(product) / 1e12, "copy_gbs": 2 * x.nbytes / seconds(copy) / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    device = "cpu" if args.tiny else "cuda"
    if not args.tiny and jax.default_backend() != "gpu":
        raise SystemExit(f"jax runs on {jax.default_backend()}: install its CUDA build, or try the script with --tiny")
    name = torch.cuda.get_device_name() if device == "cuda" else hardware()
    record = {"device": name, "versions": versions(), "limits": bandwidth_and_flops(), "cases": {}}
    for case, (cls, options, make) in CASES.items():
        inputs = {k: v[:2] for k, v in make().items()} if args.tiny else make()
        record["cases"][case] = one_case(cls, {**options, **TINY} if args.tiny else options, inputs, device)
        gc.collect()
        if args.output:  # after each case: a time limit may end the run
            args.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    header = ["case", "torch ms", "A/A", "torch.compile", "jaxformers", "A/A", "load s", "first call s", "difference"]
    rows = []
    for case, found in record["cases"].items():
        t = found["times"]
        again = t["jaxformers"]["median_ms"] / t["jaxformers again"]["median_ms"]
        ratios = [f"{t[k]['ratio']:.2f}" for k in ("torch again", "torch.compile", "jaxformers")]
        rest = [f"{again:.2f}", f"{found['load_s']:.2f}", f"{found['first_call_s']:.2f}", f"{found['difference']:.0e}"]
        rows.append([case, f"{t['torch']['median_ms']:.2f}", *ratios, *rest])
    limits = record["limits"]
    print(f"{name}: {limits['matmul_tflops']:.0f} TFLOP/s in a product, {limits['copy_gbs']:.0f} GB/s in a copy\n")
    print(table(header, rows))


if __name__ == "__main__":
    main()
