"""Prefill and greedy decoding of 1B and 8B llamas in bfloat16 on one GPU, against transformers' generate.

python benchmarks/gpu/decode.py [--output results/gpu_decode.json] [--only 8B,...] [--tiny]

Weights are random and made on the device, each side in a process of its own. A call that writes one token is the
prefill; what more tokens take beyond it is decoding. Bytes/s are those of the parameters that a step must read, beside
what a copy reaches. torch runs eager, and with a static cache that is compiled. --tiny: small models on the CPU.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import hardware, in_own_process, table

LLAMA_1B = dict(
    vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
    num_key_value_heads=8, head_dim=64, max_position_embeddings=8192, tie_word_embeddings=True,
)  # fmt: skip
LLAMA_8B = dict(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8, max_position_embeddings=8192,
)  # fmt: skip
TINY = dict(
    vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, head_dim=16,
    num_key_value_heads=2,
)  # fmt: skip
# Options, rows, tokens of the prompt.
CASES = {
    "llama 1B, 1 x 1024": (LLAMA_1B, 1, 1024),
    "llama 1B, 32 x 1024": (LLAMA_1B, 32, 1024),
    "llama 8B, 1 x 1024": (LLAMA_8B, 1, 1024),
    "llama 8B, 16 x 1024": (LLAMA_8B, 16, 1024),
}
SIDES = ("torch eager", "torch compiled", "jaxformers", "torch eager again", "jaxformers again")
NEW = 128
PLAIN = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def prompts(options: dict, rows: int, tokens: int) -> dict[str, np.ndarray]:
    """Random ids."""
    ids = np.random.RandomState(0).randint(5, options["vocab_size"], (rows, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def torch_side(options: dict, inputs: dict, new: int, device: str, compiled: bool) -> tuple[Callable, int]:
    """transformers' generate, and the bytes of the parameters."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    with torch.device(device):
        config = transformers.LlamaConfig(**options)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    tensors = {name: torch.tensor(value, device=device) for name, value in inputs.items()}
    more: dict[str, Any] = dict(PLAIN)
    if compiled:
        how = transformers.CompileConfig(mode="reduce-overhead" if device == "cuda" else "default")
        how._compile_all_devices = True
        length = inputs["input_ids"].shape[1] + new
        more |= {"cache_implementation": "static", "max_cache_len": length, "compile_config": how}

    def call(count: int) -> None:
        with torch.inference_mode():
            out = model.generate(**tensors, max_new_tokens=count, **more)
        out.cpu()  # waits

    embedding = 0 if config.tie_word_embeddings else model.get_input_embeddings().weight.nbytes
    return call, sum(p.nbytes for p in model.parameters()) - embedding


def our_side(options: dict, inputs: dict, new: int) -> tuple[Callable, int]:
    """Ours. Both numbers of tokens get a cache of the same size."""
    import jax

    import jaxformers as jf
    from jaxformers.generation.asking import read_request
    from jaxformers.generation.generate import mode_of

    config = jf.AutoConfig.for_model("llama", **options)
    model = jf.Model.init(config, jax.random.key(0), task="CausalLM", dtype="bfloat16")

    def call(count: int) -> None:
        request = read_request(model, **inputs, max_new_tokens=count, **PLAIN)
        np.asarray(mode_of(request)(request))

    embedding = 0 if config.tie_word_embeddings else options["vocab_size"] * options["hidden_size"] * 2
    return call, sum(x.nbytes for x in jax.tree.leaves(model)) - embedding


def copy_rate(device: str) -> float:
    """Bytes/s that a copy reads and writes."""
    import torch

    x = torch.ones(2**30 if device == "cuda" else 2**24, dtype=torch.bfloat16, device=device)
    y, best = torch.empty_like(x), float("inf")
    for _ in range(8):
        start = time.perf_counter()
        y.copy_(x)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * x.nbytes / best


def child(side: str, name: str, small: bool) -> dict:
    """Seconds of calls with one token and with more, of one side."""
    options, rows, tokens = CASES[name]
    device, new = "cuda", NEW
    if small:
        os.environ["JAX_PLATFORMS"] = "cpu"
        options, rows, tokens, device, new = options | TINY, 2, 64, "cpu", 16
    if side == "copy":
        return {"bytes_per_second": copy_rate(device)}
    inputs, kind = prompts(options, rows, tokens), side.removesuffix(" again")
    if kind == "jaxformers":
        call, size = our_side(options, inputs, new)
    else:
        call, size = torch_side(options, inputs, new, device, kind == "torch compiled")
    start = time.perf_counter()
    call(new)
    first, times = time.perf_counter() - start, {1: [], new: []}
    for n in range(6):
        for count in times:
            start = time.perf_counter()
            call(count)
            if n:  # the first ones compile
                times[count].append(time.perf_counter() - start)
    prefill, whole = (statistics.median(times[count]) for count in (1, new))
    step = (whole - prefill) / (new - 1)
    rates = {"prefill": rows * tokens / prefill, "decode": rows / step, "bytes_per_second": size / step}
    return {"first_s": first, "prefill_s": prefill, "step_s": step, "times": list(times.values()), **rates}


def report(record: dict) -> str:
    """A table; "x" is how many times faster decoding is than torch eager's."""
    header = ["case", "side", "prefill tokens/s", "decode tokens/s", "step ms", "of a copy", "x", "first call s"]
    lines = []
    for name, found in record["cases"].items():
        base = found["torch eager"]["step_s"]
        for side, one in found.items():
            share = one["bytes_per_second"] / record["copy_bytes_per_second"]
            numbers = [f"{one['prefill']:.0f}", f"{one['decode']:.1f}", f"{1e3 * one['step_s']:.2f}", f"{share:.0%}"]
            lines.append([name, side, *numbers, f"{base / one['step_s']:.2f}", f"{one['first_s']:.1f}"])
    return table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", default="", help="cases whose name contains one of these, separated by commas")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return print(json.dumps(child(args.child[0], args.child[1], args.child[2] == "tiny")))
    from measure import versions

    size, names = "tiny" if args.tiny else "whole", list(CASES)
    if args.tiny:
        device = hardware()
    else:
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("torch sees no GPU: run this on a machine with one, or try the script with --tiny")
        device = torch.cuda.get_device_name()
    rate = in_own_process(__file__, "--child", "copy", names[0], size)["bytes_per_second"]
    record: dict[str, Any] = {"device": device, "versions": versions(), "copy_bytes_per_second": rate, "cases": {}}
    for name in names:
        if any(part in name for part in args.only.split(",")):
            record["cases"][name] = {side: in_own_process(__file__, "--child", side, name, size) for side in SIDES}
            if args.output:  # after each case: a time limit may end the run
                args.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"{device}{', tiny models' * args.tiny}, bfloat16; a copy moves {rate / 1e9:.0f} GB/s\n\n{report(record)}")


if __name__ == "__main__":
    main()
