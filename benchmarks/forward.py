"""Forward passes in float32 on the CPU against PyTorch, eager and compiled, with the same weights and threads.

python benchmarks/forward.py [--only bert-b1,...] [--no-compile] [--anyway]
"""

import argparse
import os
import tempfile

THREADS = 2
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))

import jax  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from measure import refuse_when_busy, save, side_by_side, summary, table  # noqa: E402

import jaxformers as jf  # noqa: E402

LLAMA_135M = dict(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True,
)  # fmt: skip


def words(batch: int, length: int, vocab: int) -> dict[str, np.ndarray]:
    ids = np.random.RandomState(0).randint(5, vocab, (batch, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def pixels(batch: int) -> dict[str, np.ndarray]:
    return {"pixel_values": np.random.RandomState(0).randn(batch, 3, 224, 224).astype(np.float32)}


CASES = {
    "bert-base, batch 1, 128 tokens": ("BertModel", {}, lambda: words(1, 128, 30522)),
    "bert-base, batch 32, 128 tokens": ("BertModel", {}, lambda: words(32, 128, 30522)),
    "vit-b/16, batch 1": ("ViTModel", {}, lambda: pixels(1)),
    "vit-b/16, batch 8": ("ViTModel", {}, lambda: pixels(8)),
    "llama 135M, prefill of 512": ("LlamaForCausalLM", LLAMA_135M, lambda: words(1, 512, 49152)),
}


def build(cls: str, options: dict):
    """The torch model, and ours loaded from what it saved."""
    torch.manual_seed(0)
    kind = getattr(transformers, cls)
    theirs = kind(kind.config_class(**options)).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        auto = jf.AutoModelForCausalLM if "CausalLM" in cls else jf.AutoModel
        return theirs, auto.from_pretrained(folder), auto.from_pretrained(folder, scan=True)


def measure(name: str, compile_torch: bool) -> dict:
    """Times of one case and the largest relative difference of the outputs."""
    cls, options, make = CASES[name]
    theirs, ours, scanned = build(cls, options)
    inputs = make()
    tensors = {k: torch.tensor(v) for k, v in inputs.items()}
    arrays = jax.device_put(inputs)
    field = "logits" if "CausalLM" in cls else "last_hidden_state"

    def eager():
        with torch.inference_mode():
            return theirs(**tensors)[field]

    cases = {
        "torch eager": eager,
        "torch eager again": eager,
        "jaxformers": lambda: ours(**arrays)[field].block_until_ready(),
        "jaxformers again": lambda: ours(**arrays)[field].block_until_ready(),
        "jaxformers scanned": lambda: scanned(**arrays)[field].block_until_ready(),
    }
    if compile_torch:
        compiled = torch.compile(theirs)

        def run_compiled():
            with torch.inference_mode():
                return compiled(**tensors)[field]

        cases["torch.compile"] = run_compiled
    want, got = eager().numpy(), np.asarray(ours(**arrays)[field])
    return {
        "case": name,
        "difference": float(np.abs(got - want).max() / np.abs(want).max()),
        "times": summary(side_by_side(cases), "torch eager"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains one of these, separated by commas")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine; nothing is saved")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    if not args.anyway:
        refuse_when_busy()
    rows = []
    for name in CASES:
        if not any(part in name for part in args.only.split(",")):
            continue
        rows.append(measure(name, not args.no_compile))
        for case, t in rows[-1]["times"].items():
            print(
                f"{name:34s} {case:20s} {t['median_ms']:9.1f} ms (min {t['min_ms']:.1f}), x{t['ratio']:.2f}", flush=True
            )
    if not args.anyway:
        refuse_when_busy()  # what came while we measured spoils it as well
        save("forward", "python benchmarks/forward.py", rows)
    header = ["case", "torch eager ms", "A/A", "torch.compile", "jaxformers", "A/A", "scanned", "difference"]
    lines = []
    for row in rows:
        t = row["times"]
        ratio = [
            f"{t[k]['ratio']:.2f}" if k in t else "-" for k in ("torch eager again", "torch.compile", "jaxformers")
        ]
        again = t["jaxformers"]["median_ms"] / t["jaxformers again"]["median_ms"]
        rest = [f"{again:.2f}", f"{t['jaxformers scanned']['ratio']:.2f}", f"{row['difference']:.0e}"]
        lines.append([row["case"], f"{t['torch eager']['median_ms']:.1f}", *ratio, *rest])
    print(table(header, lines))


if __name__ == "__main__":
    main()
