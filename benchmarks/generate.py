"""Greedy decoding in float32 on the CPU against PyTorch, eager and with a static cache that is compiled.

python benchmarks/generate.py [--only 135M,...] [--new 64] [--no-compile] [--anyway]

Both sides write equally many tokens from the same random weights. A call with one token is timed as well, so that
tokens/s speak of decoding alone. Bytes/s are those of the parameters that a token needs; what reading alone reaches
stands beside them.
"""

import argparse
import os
import statistics
import tempfile
import warnings

THREADS = 2
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from forward import LLAMA_135M  # noqa: E402
from measure import refuse_when_busy, save, side_by_side, summary, table  # noqa: E402

import jaxformers as jf  # noqa: E402
from jaxformers.generation.asking import read_request  # noqa: E402
from jaxformers.generation.generate import mode_of  # noqa: E402

QWEN_HALF_B = dict(
    vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
    num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
)  # fmt: skip
PROMPT = 64


def words(batch: int, vocab: int) -> dict[str, np.ndarray]:
    """Random prompts."""
    ids = np.random.RandomState(0).randint(5, vocab, (batch, PROMPT))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def speech() -> dict[str, np.ndarray]:
    """Thirty seconds of noise as mel features."""
    return {"input_features": np.random.RandomState(0).randn(1, 80, 3000).astype(np.float32)}


# Shape, class, options, inputs. whisper-tiny is the shape of WhisperConfig's defaults.
CASES = {
    "llama 135M, batch 1": ("LlamaForCausalLM", LLAMA_135M, lambda: words(1, 49152)),
    "llama 135M, batch 8": ("LlamaForCausalLM", LLAMA_135M, lambda: words(8, 49152)),
    "qwen2 0.5B, batch 1": ("Qwen2ForCausalLM", QWEN_HALF_B, lambda: words(1, 151936)),
    "whisper tiny, batch 1": ("WhisperForConditionalGeneration", {}, speech),
}


def build(cls: str, options: dict):
    """The torch model, and ours loaded from what it saved."""
    torch.manual_seed(0)
    kind = getattr(transformers, cls)
    theirs = kind(kind.config_class(**options)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # scores that no rounding confuses
            parameter.add_(torch.randn_like(parameter) * 0.02)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        auto = jf.AutoModelForSpeechSeq2Seq if "Whisper" in cls else jf.AutoModelForCausalLM
        return theirs, auto.from_pretrained(folder)


def read_bandwidth(size: int = 2**27) -> float:
    """Bytes/s of a product of one row with a matrix of 512 MB, which does little but read. Best of several."""
    import time

    matrix, row = jnp.ones((size // 1024, 1024), jnp.float32), jnp.ones((1, 1024), jnp.float32)
    product = jax.jit(lambda x, w: jax.lax.dot_general(x, w, (((1,), (1,)), ((), ()))))
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        product(row, matrix).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 4 * size / best


def decode_bytes(model: jf.Model) -> int:
    """Bytes of parameters that one token reads: all but an encoder's, and of an untied table one row only."""
    leaves = jax.tree_util.tree_leaves_with_path(model.params)
    keep = [x for path, x in leaves if "['encoder']" not in jax.tree_util.keystr(path)]
    return sum(x.nbytes for x in keep)


def per_step(long: list[float], short: list[float], steps: int) -> list[float]:
    """Seconds of one token after the first, round by round."""
    return [(a - b) / steps for a, b in zip(long, short, strict=True)]


def measure(name: str, new: int, compile_torch: bool) -> dict:
    """Times of one case, with `new` tokens and with one, and whether the tokens are equal."""
    cls, options, make = CASES[name]
    theirs, ours = build(cls, options)
    inputs = make()
    tensors = {k: torch.tensor(v) for k, v in inputs.items()}
    plain = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    if "Whisper" in cls:
        plain |= {"begin_suppress_tokens": None, "suppress_tokens": None}
    generate = transformers.GenerationMixin.generate

    def eager(count: int):
        with torch.inference_mode():
            return generate(theirs, **tensors, max_new_tokens=count, **plain)

    def compiled(count: int):
        config = transformers.CompileConfig(mode="default")
        config._compile_all_devices = True
        with torch.inference_mode():
            return generate(
                theirs, **tensors, max_new_tokens=count, **plain, cache_implementation="static",
                max_cache_len=PROMPT + new, compile_config=config,
            )  # fmt: skip

    def mine(count: int):
        # As on the other side, without what whisper's own generate adds.
        request = read_request(ours, **inputs, max_new_tokens=count, **plain)
        return mode_of(request)(request).block_until_ready()

    sides = {"torch eager": eager, "torch eager again": eager, "jaxformers": mine, "jaxformers again": mine}
    if compile_torch:
        sides["torch static, compiled"] = compiled
    cases = {f"{side}, {count}": lambda f=f, n=count: f(n) for side, f in sides.items() for count in (1, new)}
    same = bool((eager(new).numpy() == np.asarray(mine(new))).all())
    times = side_by_side(cases)
    steps = {side: per_step(times[f"{side}, {new}"], times[f"{side}, 1"], new - 1) for side in sides}
    batch = len(next(iter(inputs.values())))
    return {
        "case": name,
        "new": new,
        "same tokens": same,
        "whole": summary({side: times[f"{side}, {new}"] for side in sides}, "torch eager"),
        "step": summary(steps, "torch eager"),
        "tokens_per_second": {side: batch / statistics.median(t) for side, t in steps.items()},
        "bytes_per_second": {side: decode_bytes(ours) / statistics.median(t) for side, t in steps.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains one of these, separated by commas")
    parser.add_argument("--new", type=int, default=64, help="tokens to write")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled static cache out")
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine; nothing is saved")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    if not args.anyway:
        refuse_when_busy()
    bandwidth = read_bandwidth()
    print(f"reading alone: {bandwidth / 1e9:.1f} GB/s", flush=True)
    rows = []
    for name in CASES:
        if any(part in name for part in args.only.split(",")):
            rows.append(measure(name, args.new, not args.no_compile))
            print(report(rows[-1], bandwidth), flush=True)
    if not args.anyway:
        refuse_when_busy()  # what came while we measured spoils it as well
        save("generate", "python benchmarks/generate.py", {"read_bytes_per_second": bandwidth, "cases": rows})


def report(row: dict, bandwidth: float) -> str:
    """A table of one case; ratios are against torch eager, above 1 is faster."""
    header = ["case", "side", "tokens/s", "GB/s", "of reading", "step ms", "x, step", f"x, {row['new']} tokens", "same"]
    lines = []
    for side, rate in row["tokens_per_second"].items():
        read = row["bytes_per_second"][side]
        step = row["step"][side]["median_ms"]
        numbers = [f"{rate:.1f}", f"{read / 1e9:.1f}", f"{read / bandwidth:.0%}", f"{step:.1f}"]
        ratios = [f"{row[kind][side]['ratio']:.2f}" for kind in ("step", "whole")]
        lines.append([row["case"], side, *numbers, *ratios, str(row["same tokens"])])
    return table(header, lines)


if __name__ == "__main__":
    main()
