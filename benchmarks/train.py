"""Training steps in float32 on the CPU against PyTorch, eager and compiled: time, peak memory, and a head's loss.

python benchmarks/train.py [--quick] [--only bert,...] [--no-compile] [--rounds 5] [--anyway]

Both sides load the same random weights and take the same batch, without dropout: forward, backward, clipping by the
global norm, fused AdamW. Their losses in the first two steps must agree to 1e-4, or nothing is measured. Peak memory is
that of a process of its own for each side, beyond what it held after its imports. Of a head's cross-entropy, every form
gives value and gradients, in a process of its own as well. --quick: small models, to see that everything runs.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "2")

from measure import hardware, in_own_process, peak, refuse_when_busy, reset_peak, save, side_by_side, summary, table  # noqa: E402
from train_sides import CASES, QUICK, THREADS, Case, our_step, torch_step, write  # noqa: E402

AGREE = 1e-4
FORMS = ("reference", "chunked", "blocked")  # of cross-entropy: all scores, a few tokens' or a few words' at a time
HEAD = {"tokens": 1024, "words": 128256, "width": 512}
QUICK_HEAD = {"tokens": 256, "words": 4096, "width": 64}


def measure(name: str, case: Case, compile_torch: bool, rounds: int) -> dict:
    """Times and memory of one case."""
    with tempfile.TemporaryDirectory() as folder:
        write(case, folder)
        memory = {side: in_own_process(__file__, "--peak-of", side, name, folder) for side in ("torch", "jaxformers")}
        steps = {"torch eager": torch_step(case, folder), "jaxformers": our_step(case, folder)}
        first = {side: [float(step()), float(step())] for side, step in steps.items()}
        worst = max(abs(a - b) for a, b in zip(*first.values(), strict=True))
        if not worst <= AGREE:
            raise SystemExit(f"{name}: the losses differ by {worst:.1e}, so the sides do not do the same: {first}")
        cases = {**steps, **{f"{side} again": step for side, step in steps.items()}}
        reason = no_compiler() if compile_torch else "left out"
        if reason is None:
            cases["torch.compile"] = torch_step(case, folder, compiled=True)
        times = side_by_side(cases, rounds=rounds, least=0.0)
    return {
        "case": name,
        "difference": worst,
        "peak_bytes": memory,
        "no_compile": reason,
        "times": summary(times, "torch eager"),
    }


def no_compiler() -> str | None:
    """Why torch.compile cannot be had, or None: it writes C++."""
    compilers = (os.environ.get("CXX", "g++"), "g++", "clang++")
    return None if any(map(shutil.which, compilers)) else "torch.compile needs a C++ compiler, and none was found"


def peak_of_step(side: str, name: str, folder: str) -> dict:
    """What this process holds at most beyond its imports: in its third step, and since it began."""
    case = (CASES | QUICK)[name]
    if side == "torch":
        import torch
        import transformers

        getattr(transformers, case.cls), torch.optim.AdamW  # noqa: B018  imports what loads late
        start, step = reset_peak(), torch_step(case, folder)
    else:
        import jax

        import jaxformers as jf

        getattr(jf, f"AutoModelFor{case.cls.split('For')[1]}"), jax.devices()  # noqa: B018
        start, step = reset_peak(), our_step(case, folder)
    step()
    step()
    whole = peak() - start
    reset_peak()
    step()
    return {"bytes": peak() - start, "with_compiling": max(whole, peak() - start)}


def head_loss(form: str, sizes: dict[str, int], rounds: int) -> dict:
    """Seconds and memory of a head's loss and gradients in one form, in this process."""
    import jax
    import jax.numpy as jnp

    from jaxformers.ops.cross_entropy import linear_cross_entropy
    from jaxformers.ops.dispatch import use

    tokens, words, width = sizes["tokens"], sizes["words"], sizes["width"]
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (1, tokens, width))
    matrix = 0.02 * jax.random.normal(keys[1], (words, width))
    labels = jax.random.randint(keys[2], (1, tokens), 0, words)

    def loss(x, matrix):
        return jnp.mean(linear_cross_entropy(x, matrix, labels, chunk=None if form == "reference" else tokens // 16)[0])

    with use(cross_entropy=form):
        program = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(x, matrix).compile()
    jax.block_until_ready((x, matrix))
    start = reset_peak()
    value, _ = jax.block_until_ready(program(x, matrix))
    used, times = peak() - start, []
    for _ in range(rounds):
        begun = time.perf_counter()
        jax.block_until_ready(program(x, matrix))
        times.append(time.perf_counter() - begun)
    temporary = program.memory_analysis().temp_size_in_bytes
    seconds = statistics.median(times)
    return {"form": form, "loss": float(value), "bytes": used, "temporary": temporary, "seconds": seconds}


def report(found: dict) -> str:
    """What was found as tables; ratios are against torch eager, above 1 is faster."""
    header = ["case", "torch eager ms", "A/A", "torch.compile", "jaxformers", "A/A"]
    header += ["torch MB", "from the start", "jaxformers MB", "from the start"]
    lines = []
    for row in found["steps"]:
        t = row["times"]
        names = ("torch eager again", "torch.compile", "jaxformers")
        ratios = [f"{t[k]['ratio']:.2f}" if k in t else "-" for k in names]
        again = t["jaxformers"]["median_ms"] / t["jaxformers again"]["median_ms"]
        kinds = [(side, kind) for side in ("torch", "jaxformers") for kind in ("bytes", "with_compiling")]
        sizes = [f"{row['peak_bytes'][side][kind] / 1e6:.0f}" for side, kind in kinds]
        lines.append([row["case"], f"{t['torch eager']['median_ms']:.0f}", *ratios, f"{again:.2f}", *sizes])
        lines[-1].append(f"{row['difference']:.0e}")
    missing = {row["no_compile"] for row in found["steps"]} - {None}
    notes = [f"\nNo column for torch.compile: {reason}." for reason in sorted(missing)]
    return "\n".join([table([*header, "losses differ by"], lines), *notes, "", report_heads(found["head"])])


def report_heads(head: dict) -> str:
    """A head's loss as a table."""
    names = {"reference": "all scores", "chunked": "a few tokens at a time", "blocked": "a few words at a time"}
    header = ["{tokens} tokens, {words} words, width {width}".format(**head), "ms", "grown by MB", "compiler's MB"]
    lines = []
    for one in head["forms"]:
        sizes = [f"{one[key] / 1e6:.0f}" for key in ("bytes", "temporary")]
        lines.append([names[one["form"]], f"{1e3 * one['seconds']:.0f}", *sizes, f"{one['loss']:.6f}"])
    return table([*header, "loss"], lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains one of these, separated by commas")
    parser.add_argument("--quick", action="store_true", help="small models; nothing is saved")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine; nothing is saved")
    parser.add_argument("--peak-of", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--head", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.peak_of:
        return print(json.dumps(peak_of_step(*args.peak_of)))
    if args.head:
        return print(json.dumps(head_loss(args.head[0], json.loads(args.head[1]), 3)))
    if not (args.anyway or args.quick):
        refuse_when_busy()
    sizes = QUICK_HEAD if args.quick else HEAD
    heads = [in_own_process(__file__, "--head", form, json.dumps(sizes)) for form in FORMS]
    rows = []
    for name, case in (QUICK if args.quick else CASES).items():
        if any(part in name for part in args.only.split(",")):
            rows.append(measure(name, case, not args.no_compile, args.rounds))
            print(json.dumps(rows[-1]), flush=True)
    found = {"steps": rows, "head": {**sizes, "forms": heads}}
    print(f"\n{THREADS} threads, {hardware()}\n\n{report(found)}")
    if not (args.anyway or args.quick):
        refuse_when_busy()  # what came while we measured spoils it as well
        save("train", "python benchmarks/train.py", found)


if __name__ == "__main__":
    main()
