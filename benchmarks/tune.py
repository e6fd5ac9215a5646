"""Block sizes of flash attention for the TPU at hand, by measurement.

python benchmarks/tune.py [--length 4096] [--write] [--tiny]

For each row of kernels/attention/blocks.json (widest head, bytes of a number) every pair of block sizes that compiles
is timed, kernel by kernel: causal attention of 16 heads on 4 kv heads, one row of `--length` tokens. `--write` puts the
fastest into the table under this device's name, from where the kernels read them; without it they are only shown.
`--tiny` interprets two small sizes on any device, to try the program.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from measure import side_by_side, summary, table

from jaxformers.kernels.attention import blocks as known
from jaxformers.kernels.attention.blocks import Blocks
from jaxformers.kernels.attention.flash_tpu import flash_attention
from jaxformers.kernels.attention.tpu_blocks import Settings
from jaxformers.kernels.attention.visibility import Visibility

FILE = Path(known.__file__).parent / "blocks.json"
KERNELS = ("forward", "queries", "keys")
SIZES = (256, 512, 1024, 2048)
DTYPES = {2: jnp.bfloat16, 4: jnp.float32}


def problem(length: int, dim: int, itemsize: int, heads: tuple[int, int]) -> tuple[jax.Array, ...]:
    """q, k, v [1,T,heads,D]."""
    keys = jax.random.split(jax.random.key(0), 3)
    counts = (heads[0], heads[1], heads[1])
    return tuple(
        jax.random.normal(key, (1, length, count, dim), DTYPES[itemsize])
        for key, count in zip(keys, counts, strict=True)
    )


def compiled(given: tuple[jax.Array, ...], blocks: Blocks, kernel: str, interpret: bool) -> Callable[[], Any]:
    """The forward pass, or the gradient, with these blocks. Raises what the compiler does when they do not fit."""
    slots = jnp.arange(given[0].shape[1])
    settings = Settings(given[0].shape[-1] ** -0.5, None, blocks, interpret=interpret)

    def forward(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return flash_attention(q, k, v, Visibility(slots, high=slots), settings)[0].astype(jnp.float32).sum()

    # Only the gradient that the kernel computes is asked for; the forward pass before it is the same for all sizes.
    which = {"forward": forward, "queries": jax.grad(forward, 0), "keys": jax.grad(forward, (1, 2))}[kernel]
    program = jax.jit(which).lower(*given).compile()
    return lambda: jax.block_until_ready(program(*given))


def candidates(
    given: tuple, best: dict, kernel: str, sizes: tuple, interpret: bool
) -> Iterator[tuple[tuple, Callable]]:
    """Every pair of sizes that compiles, with its program."""
    for pair in itertools.product(sizes, sizes):
        try:
            yield pair, compiled(given, Blocks(**{**best, kernel: pair}), kernel, interpret)
        except jax.errors.JaxRuntimeError as error:
            print(f"  {kernel} {pair}: {str(error).splitlines()[0][:100]}")


def tune(row: dict, length: int, sizes: tuple, heads: tuple[int, int], interpret: bool) -> tuple[dict, list[list[str]]]:
    """The row with the fastest sizes, and lines for the table."""
    given = problem(length, row["dim"], row["itemsize"], heads)
    best = {kernel: (sizes[0], sizes[0]) if interpret else tuple(row[kernel]) for kernel in KERNELS}
    lines = []
    for kernel in KERNELS:
        calls = dict(candidates(given, best, kernel, sizes, interpret))
        before = best[kernel] if best[kernel] in calls else next(iter(calls))
        found = summary(side_by_side(calls, 1 if interpret else 5, 0.0 if interpret else 0.2), before)
        best[kernel] = min(found, key=lambda pair: found[pair]["median_ms"])
        for pair, one in sorted(found.items(), key=lambda item: item[1]["median_ms"]):
            chosen = "fastest" if pair == best[kernel] else "as it was" if pair == before else ""
            name = f"{row['dim']} x {row['itemsize']} bytes"
            lines.append([name, kernel, str(pair), f"{one['median_ms']:.3f}", f"{one['ratio']:.2f}", chosen])
    return {**row, **{kernel: list(pair) for kernel, pair in best.items()}}, lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=4096, help="tokens (4096)")
    parser.add_argument("--write", action="store_true", help="put the fastest into kernels/attention/blocks.json")
    parser.add_argument("--tiny", action="store_true", help="interpret two sizes; nothing is written")
    args = parser.parse_args()
    device = jax.devices()[0]
    if device.platform != "tpu" and not args.tiny:
        raise SystemExit(f"the device is {device.device_kind}; these kernels are for TPUs (--tiny tries the program)")
    rows, lines = [], []
    everything = known.table()
    for row in everything.get(device.device_kind, everything["default"])[: 1 if args.tiny else None]:
        options = (256, (128, 256), (2, 1), True) if args.tiny else (args.length, SIZES, (16, 4), False)
        new, shown = tune(row, *options)
        rows.append(new)
        lines += shown
    print(table(["head", "kernel", "queries, keys", "ms", "x", ""], lines))
    if args.write and not args.tiny:
        everything = {**everything, device.device_kind: rows}
        parts = (
            f'  "{kind}": [\n' + ",\n".join(f"    {json.dumps(row)}" for row in table_rows) + "\n  ]"
            for kind, table_rows in everything.items()
        )
        FILE.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
        print(f"{device.device_kind}: written to {FILE.name}")


if __name__ == "__main__":
    main()
