"""Ops against what else computes them on this device; for now attention on the CPU, against torch's SDPA.

python benchmarks/kernels.py [--lengths 512,1024,2048,4096] [--quick] [--anyway]

Causal attention of 8 heads of 64 in float32, one row, two threads: forward, and forward with all gradients. Every
implementation of the op that does not refuse is measured; "chosen" is the one that models get. Memory is what one call
with gradients adds to a process of its own. On other devices nothing is measured yet.
"""

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np  # noqa: E402
from measure import hardware, in_own_process, peak, refuse_when_busy, reset_peak, save, side_by_side, summary, table  # noqa: E402

HEADS, WIDTH = 8, 64
TORCH = "torch SDPA"


def arrays(length: int) -> list[np.ndarray]:
    """q, k, v and the gradient of the output, [1,T,H,D]."""
    draw = np.random.RandomState(0)
    return [draw.randn(1, length, HEADS, WIDTH).astype(np.float32) for _ in range(4)]


def torch_calls(length: int) -> dict[str, Callable[[], Any]]:
    """Forward alone, and with gradients; the second returns them."""
    import torch

    torch.set_num_threads(2)
    q, k, v, g = (torch.tensor(x.swapaxes(1, 2).copy()) for x in arrays(length))
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]

    def forward() -> Any:
        with torch.inference_mode():
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    def whole() -> list[Any]:
        out = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True)
        return list(torch.autograd.grad(out, leaves, g))

    return {"forward": forward, "with gradients": whole}


def our_calls(length: int, name: str) -> dict[str, Callable[[], Any]]:
    """The same by one implementation of ours. Raises ValueError where it refuses."""
    import jax
    import jax.numpy as jnp

    from jaxformers.core.mask import Mask
    from jaxformers.ops.attention import attention
    from jaxformers.ops.dispatch import use

    q, k, v, g = jax.device_put(arrays(length))
    slots = jnp.arange(length)

    def run(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attention(q, k, v, Mask.causal(), q_slots=slots, k_slots=slots, scale=WIDTH**-0.5)

    def gradients(q: jax.Array, k: jax.Array, v: jax.Array, g: jax.Array) -> Any:
        return jax.vjp(run, q, k, v)[1](g)

    with use(attention=name):
        forward = jax.jit(run).lower(q, k, v).compile()
        whole = jax.jit(gradients).lower(q, k, v, g).compile()
    return {
        "forward": lambda: jax.block_until_ready(forward(q, k, v)),
        "with gradients": lambda: jax.block_until_ready(whole(q, k, v, g)),
    }


def names(length: int) -> tuple[list[str], str]:
    """The implementations for this device that take this length, and the one that models get."""
    import jax
    import jax.numpy as jnp

    from jaxformers.core.mask import Mask
    from jaxformers.ops.attention import attention
    from jaxformers.ops.dispatch import use, watch_calls

    q, slots = jax.ShapeDtypeStruct((1, length, HEADS, WIDTH), jnp.float32), jnp.arange(length)

    def run(q: jax.Array) -> jax.Array:
        return attention(q, q, q, Mask.causal(), q_slots=slots, k_slots=slots, scale=WIDTH**-0.5)

    found = []
    for name, one in attention.known().items():
        if one.platforms and "cpu" not in one.platforms:
            continue  # it would be interpreted
        try:
            with use(attention=name):
                jax.eval_shape(lambda q: run(q), q)  # a new function: one that was traced keeps its choice
            found.append(name)
        except ValueError:
            continue
    with watch_calls() as calls:
        jax.eval_shape(lambda q: run(q), q)
    return found, calls[0].chosen


def memory_of(side: str, length: int) -> dict:
    """What a call with gradients adds to the peak of this process."""
    call = (torch_calls(length) if side == TORCH else our_calls(length, side))["with gradients"]
    start = reset_peak()
    call()
    return {"bytes": peak() - start}


def measure(length: int, rounds: int) -> dict:
    """Times, memory and the largest relative difference of the gradients, by implementation."""
    ours, chosen = names(length)
    calls = {TORCH: torch_calls(length), **{name: our_calls(length, name) for name in ours}}
    wanted = [x.numpy().swapaxes(1, 2) for x in calls[TORCH]["with gradients"]()]
    worst = {}
    for name in ours:
        got = [np.asarray(x) for x in calls[name]["with gradients"]()]
        worst[name] = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(got, wanted, strict=True))
    found: dict[str, Any] = {"length": length, "chosen": chosen, "differences": worst}
    for kind in ("forward", "with gradients"):
        sides = {name: call[kind] for name, call in calls.items()}
        sides[f"{TORCH} again"] = calls[TORCH][kind]
        found[kind] = summary(side_by_side(sides, rounds), TORCH)
    found["bytes"] = {side: in_own_process(__file__, "--memory-of", side, str(length))["bytes"] for side in calls}
    return found


def report(found: list[dict]) -> str:
    """A table; "x" is torch's median time over the other's, above 1 is faster than torch."""
    header = ["tokens", "side", "forward ms", "x", "with gradients ms", "x", "grown by MB", "difference"]
    lines = []
    for row in found:
        for side, forward in row["forward"].items():
            whole = row["with gradients"][side]
            times = [f"{t[key]:.{n}f}" for t in (forward, whole) for key, n in (("median_ms", 1), ("ratio", 2))]
            size = f"{row['bytes'][side] / 1e6:.0f}" if side in row["bytes"] else "-"
            off = f"{row['differences'][side]:.0e}" if side in row["differences"] else "-"
            lines.append([str(row["length"]), side + (" (chosen)" if side == row["chosen"] else ""), *times, size, off])
    return table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="512,1024,2048,4096")
    parser.add_argument("--quick", action="store_true", help="a short sequence and one round; nothing is saved")
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine; nothing is saved")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        return print(json.dumps(memory_of(args.memory_of[0], int(args.memory_of[1]))))
    if not (args.anyway or args.quick):
        refuse_when_busy()
    rows = []
    for length in [256] if args.quick else map(int, args.lengths.split(",")):
        rows.append(measure(length, 1 if args.quick else 5))
    print(f"two threads, {hardware()}\n\n{report(rows)}")
    if not (args.anyway or args.quick):
        refuse_when_busy()  # what came while we measured spoils it as well
        save("kernels", "python benchmarks/kernels.py", rows)


if __name__ == "__main__":
    main()
